//! URLs among the places that a user names.

use std::path::{Path, PathBuf};

/// The schemes of archives that are no files. `s3a` is none of them: the scheme belongs to Hadoop.
const SCHEMES: [&str; 7] = ["https", "http", "s3", "gs", "az", "abfs", "abfss"];

/// Whether a path is in truth a URL of an archive.
pub fn is_url(path: &Path) -> bool {
    path.to_str().and_then(|text| text.split_once("://")).is_some_and(|(scheme, _)| is_scheme(scheme))
}

fn is_scheme(scheme: &str) -> bool {
    SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// A URL as messages show it: without user, password, query and fragment, which may hold secrets. Paths stay as they
/// are.
pub fn shown(path: &Path) -> PathBuf {
    let Some((scheme, rest)) =
        path.to_str().and_then(|text| text.split_once("://")).filter(|(scheme, _)| is_scheme(scheme))
    else {
        return path.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // Before the `@` of an Azure URL stands the container.
    let has_user = scheme.to_ascii_lowercase().starts_with("http");
    let host = host.rsplit_once('@').filter(|_| has_user).map_or(host, |(_, host)| host);
    PathBuf::from(format!("{scheme}://{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for url in ["https://host/a.s3a", "HTTP://host", "s3://bucket/a", "gs://b/a", "az://c/a"] {
            assert!(is_url(Path::new(url)), "{url}");
        }
        for path in ["a.s3a", "/https/a", "./https://x", "s3a://bucket/a", "file:///a", "https:/a", ""] {
            assert!(!is_url(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let shown = |text| shown(Path::new(text)).into_os_string().into_string().unwrap();
        assert_eq!(shown("https://me:word@host:1/d/a.s3a?sig=x#y"), "https://host:1/d/a.s3a");
        assert_eq!(shown("https://token@host/a"), "https://host/a");
        assert_eq!(shown("https://host?sig=x/y"), "https://host");
        assert_eq!(shown("abfs://container@account.host/a"), "abfs://container@account.host/a");
        assert_eq!(shown("a?b"), "a?b");
    }
}
