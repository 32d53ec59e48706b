//! How long HTTP requests take, by route and status.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use metrics::Histogram;

use crate::metrics::HTTP;

/// Our routes, by what they are called; what is none of them comes last.
const ROUTES: [&str; 6] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/{model}",
    "other",
];
/// The statuses that we answer with; what is none of them comes last.
const CODES: [&str; 15] = [
    "200", "400", "401", "403", "404", "405", "408", "409", "413", "429", "500", "502", "503", "504", "other",
];

/// The histograms, made when their first value comes: most routes never answer most statuses.
#[derive(Default)]
pub(super) struct Answers([[OnceLock<Histogram>; CODES.len()]; ROUTES.len()]);

impl Answers {
    fn record(&self, route: usize, status: StatusCode, began: Instant) {
        let code = CODES.iter().position(|code| *code == status.as_str()).unwrap_or(CODES.len() - 1);
        let of = self.0[route][code].get_or_init(|| HTTP.histogram(&[ROUTES[route], CODES[code]]));
        of.record(began.elapsed());
    }
}

/// A path's place in [`ROUTES`]: callers must not be able to make up labels.
fn route(path: &str) -> usize {
    let model = path.strip_prefix("/v1/models/").filter(|name| !name.is_empty() && !name.contains('/'));
    let name = if model.is_some() { "/v1/models/{model}" } else { path };
    ROUTES.iter().position(|route| *route == name).unwrap_or(ROUTES.len() - 1)
}

/// Measures a request.
pub(super) async fn measured(
    State(answers): State<Arc<Answers>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let (route, began) = (route(request.uri().path()), Instant::now());
    let response = next.run(request).await;
    answers.record(route, response.status(), began);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_of_ours_become_labels() {
        for (path, name) in [
            ("/v1/models", "/v1/models"),
            ("/v1/models/a-model", "/v1/models/{model}"),
            ("/v1/models/", "other"),
            ("/v1/models/{model}/x", "other"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/anything", "other"),
            ("other", "other"),
        ] {
            assert_eq!(ROUTES[route(path)], name, "{path}");
        }
    }
}
