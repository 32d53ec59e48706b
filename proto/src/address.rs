//! Where a server is, as people write it.

use tonic::codegen::http::Uri;

/// Why an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address.
    #[error("{text:?} does not say where a server is: write {example}, or the same without http://")]
    Malformed {
        /// What was written.
        text: String,
        /// How it is written.
        example: &'static str,
    },
    /// There is something behind the port.
    #[error("{text:?} goes on behind the port: write only {example}")]
    Path {
        /// What was written.
        text: String,
        /// How it is written.
        example: &'static str,
    },
    /// TLS.
    #[error(
        "{text:?}: this build speaks no TLS; let something on this machine do that (a proxy, a tunnel), and name that by http"
    )]
    Tls {
        /// What was written.
        text: String,
    },
}

/// The URL of a gRPC port: from `http://host:port`, or from `host:port`.
pub fn url(text: &str, example: &'static str) -> Result<String, AddressError> {
    let malformed = || AddressError::Malformed { text: text.to_owned(), example };
    let has_scheme = text.contains("://");
    let full = if has_scheme { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = full.parse().map_err(|_| malformed())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(AddressError::Tls { text: text.to_owned() }),
        _ => return Err(malformed()),
    }
    // A word alone is more likely a slip than a host that listens on port 80.
    let is_place =
        uri.host().is_some_and(|host| !host.is_empty()) && (has_scheme || uri.port_u16().is_some());
    if !is_place {
        return Err(malformed());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(AddressError::Path { text: text.to_owned(), example });
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "http://gateway.example:7070";

    #[test]
    fn an_address_is_a_url_or_a_host_with_its_port() {
        for (text, full) in [
            ("http://g:7070", "http://g:7070"),
            ("http://g", "http://g"),
            ("g:7070", "http://g:7070"),
            ("127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("[::1]:7070", "http://[::1]:7070"),
            ("g:7070/", "http://g:7070/"),
        ] {
            assert_eq!(url(text, EXAMPLE).as_deref(), Ok(full));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_how_it_is_written() {
        for text in ["", "g", "ftp://g:1", "http://", ":7070", "g:port", "a b:1", "g:70707"] {
            let why = url(text, EXAMPLE).unwrap_err().to_string();
            assert!(why.contains(EXAMPLE) && why.contains("without http://"), "{text}: {why}");
        }
        for text in ["http://g:7072/v1", "g:7072/v1/models", "http://g:1/?a=b"] {
            let why = url(text, EXAMPLE).unwrap_err().to_string();
            assert!(why.contains("behind the port") && why.contains(EXAMPLE), "{text}: {why}");
        }
        assert!(url("https://g:1", EXAMPLE).unwrap_err().to_string().contains("no TLS"));
    }
}
