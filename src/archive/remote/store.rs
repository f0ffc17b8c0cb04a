//! A client for the object that a URL names.
//!
//! Credentials come from where the programs of each vendor take them: environment variables, the shared files of AWS
//! and Google Cloud, the metadata of a machine. None are taken from the URL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use reqwest::Url;

use super::{aws_files, location};
use crate::error::{Error, Result};

/// Longest that a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// The store and the path in it of a URL. A server that is silent for `stall` is given up.
pub(super) fn open(url: &str, stall: Duration) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    let shown = location::shown(Path::new(url));
    let usage = |what: &dyn std::fmt::Display| Error::Usage(format!("{}: {what}", shown.display()));
    let url = Url::parse(url).map_err(|e| usage(&e))?;
    // The first that is installed stays; a program that has another one keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = ObjectPath::from_url_path(url.path()).map_err(|e| usage(&e))?;
    if path.as_ref().is_empty() {
        return Err(usage(&"the URL names no object"));
    }
    // Retries are those of `request`, which know what was read so far.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let client = client(&url, stall);
    let built: object_store::Result<Arc<dyn ObjectStore>> = match url.scheme() {
        "s3" => {
            let mut builder = aws_files::complete(AmazonS3Builder::from_env())?;
            for (key, value) in client {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            builder.with_retry(retry).with_url(url).build().map(|store| Arc::new(store) as _)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env();
            for (key, value) in client {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            builder.with_retry(retry).with_url(url).build().map(|store| Arc::new(store) as _)
        }
        "az" | "abfs" | "abfss" => {
            let mut builder = MicrosoftAzureBuilder::from_env();
            for (key, value) in client {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            builder.with_retry(retry).with_url(url).build().map(|store| Arc::new(store) as _)
        }
        _ => {
            if !url.username().is_empty() || url.password().is_some() {
                return Err(usage(&"a user or password in a URL is not used; a signed URL is"));
            }
            // The path is added to it by the store; the query stays, since it may be a signature.
            let mut base = url;
            base.set_path("");
            base.set_fragment(None);
            let mut builder = HttpBuilder::new().with_url(base);
            for (key, value) in client {
                builder = builder.with_config(key, value);
            }
            builder.with_retry(retry).build().map(|store| Arc::new(store) as _)
        }
    };
    Ok((built.map_err(|e| usage(&e))?, path))
}

/// What all clients are told.
fn client(url: &Url, stall: Duration) -> Vec<(ClientConfigKey, String)> {
    let millis = |time: Duration| format!("{}ms", time.as_millis().max(1));
    vec![
        (ClientConfigKey::UserAgent, concat!("s3a/", env!("CARGO_PKG_VERSION")).into()),
        // A long answer may take long, as long as it goes on: `request` bounds it.
        (ClientConfigKey::Timeout, "1day".into()),
        (ClientConfigKey::ConnectTimeout, millis(stall.min(CONNECT))),
        // An https URL never leads to http. Endpoints that the environment names may be http.
        (ClientConfigKey::AllowHttp, (url.scheme() != "https").to_string()),
    ]
}
