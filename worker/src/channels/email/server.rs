//! Where a mailbox's mail server is and how to speak to it, from its URL.

use std::fmt;

use lettre::transport::smtp::authentication::Credentials;
use percent_encoding::percent_decode_str;
use url::Url;

/// A mail server URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mail server URL {0}")]
pub struct BadServer(&'static str);

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Plain,
    /// STARTTLS when the server offers it.
    Opportunistic,
    /// STARTTLS, or no connection.
    Required,
    /// TLS from the first byte.
    Implicit,
}

/// A mail server.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// Whom to authenticate as.
    pub credentials: Option<Credentials>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({}:{})", self.host, self.port)
    }
}

impl Server {
    /// Reads `smtp://[user:password@]host[:port][?tls=none|opportunistic|required]` or `smtps://…`. The ports are 587
    /// (RFC 6409) and 465 (RFC 8314) unless given. Credentials ask for encryption: with them `smtp://` means `required`,
    /// without them `opportunistic`; only an explicit `tls=none` sends a password in the clear.
    pub fn parse(url: &str) -> Result<Self, BadServer> {
        let url: Url = url.parse().map_err(|_| BadServer("is not a URL"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(BadServer("names no host"))?;
        let credentials = credentials(&url)?;
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let encryption = match (url.scheme(), tls.as_deref()) {
            ("smtps", None) => Encryption::Implicit,
            ("smtp", None) if credentials.is_some() => Encryption::Required,
            ("smtp", None | Some("opportunistic")) => Encryption::Opportunistic,
            ("smtp", Some("required")) => Encryption::Required,
            ("smtp", Some("none")) => Encryption::Plain,
            ("smtp" | "smtps", Some(_)) => return Err(BadServer("has a tls= that it does not know")),
            _ => return Err(BadServer("must begin with smtp:// or smtps://")),
        };
        let port = url.port().unwrap_or(if encryption == Encryption::Implicit { 465 } else { 587 });
        // The brackets of an IPv6 address belong to the URL.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, encryption, credentials })
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, BadServer> {
    let decode = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| BadServer("has credentials that are not UTF-8"))
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        (user, Some(password)) if !user.is_empty() => {
            Ok(Some(Credentials::new(decode(user)?, decode(password)?)))
        }
        _ => Err(BadServer("needs both a user and a password, or neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_how_to_speak() {
        let cases = [
            ("smtp://mail.example.com", 587, Encryption::Opportunistic, false),
            ("smtp://127.0.0.1:2525", 2525, Encryption::Opportunistic, false),
            ("smtp://mail.example.com:25?tls=none", 25, Encryption::Plain, false),
            ("smtp://mail.example.com?tls=required", 587, Encryption::Required, false),
            ("smtp://a%40b.c:p%3Aw@mail.example.com", 587, Encryption::Required, true),
            ("smtp://a:b@mail.example.com?tls=none", 587, Encryption::Plain, true),
            ("smtps://a:b@mail.example.com", 465, Encryption::Implicit, true),
        ];
        for (url, port, encryption, authenticates) in cases {
            let server = Server::parse(url).unwrap();
            assert_eq!((server.port, server.encryption), (port, encryption), "{url}");
            assert_eq!(server.credentials.is_some(), authenticates, "{url}");
        }
        let expected = Credentials::new("a@b.c".into(), "p:w".into());
        assert_eq!(Server::parse("smtp://a%40b.c:p%3Aw@h").unwrap().credentials, Some(expected));
        assert_eq!(Server::parse("smtp://[::1]:25").unwrap().host, "::1");
    }

    #[test]
    fn bad_urls_say_why_and_show_nothing() {
        for bad in [
            "",
            "mail.example.com",
            "http://a",
            "smtp://",
            "smtp://a?tls=maybe",
            "smtps://a?tls=none",
            "smtp://user@a",
        ] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
        let server = Server::parse("smtp://user:hunter2@mail.example.com").unwrap();
        assert!(!format!("{server:?}").contains("hunter2"));
    }
}
