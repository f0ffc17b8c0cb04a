//! The shared files of AWS's tools: credentials and region of a profile.

use std::path::PathBuf;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::options::variable;
use crate::error::{Error, Result};

/// Adds to a builder what the environment does not say and a profile does.
///
/// # Errors
/// `Usage` if `AWS_PROFILE` names a profile that no file has.
pub(super) fn complete(mut builder: AmazonS3Builder) -> Result<AmazonS3Builder> {
    use AmazonS3ConfigKey::{AccessKeyId, Region, SecretAccessKey, Token};
    let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let name = named.as_deref().unwrap_or("default");
    let read = |variable_name, file: &str| {
        let home = || Some(PathBuf::from(variable("HOME")?).join(".aws").join(file));
        let path = variable(variable_name).map(PathBuf::from).or_else(home)?;
        std::fs::read_to_string(path).ok()
    };
    let credentials = read("AWS_SHARED_CREDENTIALS_FILE", "credentials").unwrap_or_default();
    let config = read("AWS_CONFIG_FILE", "config").unwrap_or_default();
    let heading = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let (credentials, config) = (section(&credentials, name), section(&config, &heading));
    if named.is_some() && credentials.is_none() && config.is_none() {
        return Err(Error::Usage(format!("AWS_PROFILE is {name:?}, but no file of AWS has this profile")));
    }
    let (credentials, config) = (credentials.unwrap_or_default(), config.unwrap_or_default());
    let find = |key: &str| {
        let found = credentials.iter().chain(&config).find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone())
    };
    // Keys of the environment, or of a role that it names, come first.
    let is_set =
        ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
            .iter()
            .any(|name| variable(name).is_some());
    if !is_set {
        let keys = [
            ("aws_access_key_id", AccessKeyId),
            ("aws_secret_access_key", SecretAccessKey),
            ("aws_session_token", Token),
        ];
        for (key, config_key) in keys {
            if let Some(value) = find(key) {
                builder = builder.with_config(config_key, value);
            }
        }
    }
    if variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).is_none()
        && let Some(region) = find("region")
    {
        builder = builder.with_config(Region, region);
    }
    Ok(builder)
}

/// Keys and values of the section with this heading.
fn section(text: &str, heading: &str) -> Option<Vec<(String, String)>> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            inside = name.split_whitespace().eq(heading.split_whitespace());
            if inside {
                found.get_or_insert_with(Vec::new);
            }
        } else if inside
            && !line.starts_with(['#', ';'])
            && let (Some((key, value)), Some(found)) = (line.split_once('='), &mut found)
        {
            found.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_the_section_with_its_name() {
        let text = "[other]\nregion = x\n# [work]\n[ profile  work ] ; mine\nRegion=eu-north-1 \n; a = b\n\nkey= v = w\n";
        let pairs = section(text, "profile work").unwrap();
        assert_eq!(pairs, [("region".into(), "eu-north-1".into()), ("key".into(), "v = w".into())]);
        assert_eq!(section(text, "work"), None);
    }
}
