//! The URLs of endpoints, judged and ready for requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::Uri;
use shared::domain::endpoint_url::{self, AllowList, UrlError};

/// How many URLs are kept ready.
const KNOWN_MAX: usize = 5_000;

/// Judges URLs again at their attempts: the allow-list may have become another one since an endpoint was registered. It
/// stays the same as long as the process, so each URL is judged once.
#[derive(Debug)]
pub struct Targets {
    allow: Arc<AllowList>,
    known: Mutex<HashMap<String, Uri>>,
}

impl Targets {
    /// None is known yet.
    pub fn new(allow: Arc<AllowList>) -> Self {
        Self { allow, known: Mutex::default() }
    }

    /// Where a request to an endpoint's URL goes, if it may.
    pub fn get(&self, url: &str) -> Result<Uri, UrlError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uri) = known().get(url) {
            return Ok(uri.clone());
        }
        let judged = endpoint_url::parse(url, &self.allow)?;
        let uri: Uri = judged.as_str().parse().map_err(|_| UrlError::Malformed)?;
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(url.to_owned(), uri.clone());
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_judged_whether_it_is_known_or_not() {
        let targets = Targets::new(Arc::default());
        for _ in 0..2 {
            assert_eq!(targets.get("https://EXAMPLE.com:443/a?b#c").unwrap(), "https://example.com/a?b");
            assert_eq!(targets.get("https://10.0.0.1/"), Err(UrlError::Address));
            assert_eq!(targets.get("http://example.com/"), Err(UrlError::Scheme));
            assert_eq!(targets.get("https://localhost/"), Err(UrlError::Address));
        }
        assert_eq!(targets.known.lock().unwrap().len(), 1);
    }

    #[test]
    fn no_more_urls_are_kept_than_the_limit() {
        let targets = Targets::new(Arc::default());
        for number in 0..=KNOWN_MAX {
            targets.get(&format!("https://example.com/{number}")).unwrap();
        }
        assert_eq!(targets.known.lock().unwrap().len(), 1);
    }
}
