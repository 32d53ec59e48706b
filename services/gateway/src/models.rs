//! The models that the market offers, asked for again every few seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holmes_kernel::{Code, Refusal};
use holmes_proto::market::v1 as market;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::metrics::ModelMeters;
use crate::settings::{Settings, ms};
use crate::upstream::{Upstream, now};

/// What is offered, as it was a moment ago.
pub(crate) struct Models {
    upstream: Upstream,
    fresh_for: Duration,
    known: Mutex<Option<(Instant, BTreeMap<String, Offered>)>>,
}

/// A model that is offered, and what is measured of it.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) model: market::Model,
    pub(crate) meters: Arc<ModelMeters>,
}

impl Offered {
    fn new(model: market::Model) -> Offered {
        let meters = Arc::new(ModelMeters::new(&model.name));
        Offered { model, meters }
    }
}

impl Models {
    pub(crate) fn new(upstream: Upstream, settings: &Settings) -> Models {
        Models { upstream, fresh_for: ms(settings.catalogue_ms), known: Mutex::default() }
    }

    /// All of them, by name.
    pub(crate) async fn all(&self) -> Result<BTreeMap<String, Offered>, Refusal> {
        let mut known = self.known.lock().await;
        if let Some((since, models)) = &*known
            && since.elapsed() < self.fresh_for
        {
            return Ok(models.clone());
        }
        let mut market = self.upstream.market();
        let asked = market.list_models(now(market::ListModelsRequest { withdrawn: false }));
        match (self.upstream.once(asked).await, &*known) {
            (Ok(answer), _) => {
                let named = |model: market::Model| (model.name.clone(), Offered::new(model));
                let models: BTreeMap<_, _> = answer.models.into_iter().map(named).collect();
                *known = Some((Instant::now(), models.clone()));
                Ok(models)
            }
            // Prices of a moment ago are better than none: what is billed is the lease's.
            (Err(_), Some((_, models))) => Ok(models.clone()),
            (Err(refused), None) => Err(refused),
        }
    }

    /// The names of those that are known now.
    pub(crate) fn names(&self) -> Vec<String> {
        // While somebody asks the market, who wants to know looks again later.
        let known = self.known.try_lock().ok();
        known.and_then(|known| Some(known.as_ref()?.1.keys().cloned().collect())).unwrap_or_default()
    }

    /// One model that does what is asked.
    pub(crate) async fn get(&self, name: &str, kind: market::ModelKind) -> Result<Offered, Refusal> {
        let Some(offered) = self.all().await?.remove(name) else {
            let message = format!(
                "the network offers no model {name:?}: ListModels, or GET /v1/models, says which there are"
            );
            return Err(Refusal::new(Code::NotFound, "MODEL_NOT_FOUND", message));
        };
        if offered.model.kind() != kind {
            let does = if kind == market::ModelKind::Generate { "computes vectors" } else { "writes text" };
            let message = format!("the model {name:?} {does}: choose another one");
            return Err(Refusal::new(Code::Invalid, "MODEL_UNSUITED", message));
        }
        Ok(offered)
    }
}
