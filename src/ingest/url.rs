//! Addresses of camera streams. What is typed is often not a clean URL: passwords hold '@', '#', '/' and
//! '%'. What can be understood in one way only is accepted; otherwise the error says what to do. The
//! password is taken out here and never formatted again.

use std::fmt;

use crate::types::Secret;

/// Why an address is not accepted. Never holds what was typed, because that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin as it should.
    #[error("the address must begin with rtsp:// or rtsps://")]
    Scheme,
    /// It has no host, or one with characters that no host has.
    #[error(
        "the address has no valid host after '{scheme}://'; if the password holds '@', '/', '#' or '?', put it into \
         the field `password` instead of the address"
    )]
    Host {
        /// The scheme that was understood.
        scheme: &'static str,
    },
    /// The port is not a number of 1 to 65535.
    #[error("the port of the address must be a number of 1 to 65535")]
    Port,
    /// User name and password can be told apart from the host in more than one way.
    #[error(
        "the address can be read in more than one way: put user name and password into the fields `username` and \
         `password` instead (or write '@' as %40, '/' as %2F, '#' as %23, '?' as %3F in the password)"
    )]
    Ambiguous,
    /// Blanks or control characters.
    #[error("the address holds a blank or a control character")]
    ControlCharacter,
    /// A password without a user name.
    #[error("a password without a user name: set `username` too")]
    PasswordWithoutUser,
}

/// The address of an RTSP stream, its user name and password apart. `Display` and `Debug` show the
/// password as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamUrl {
    tls: bool,
    host: String,
    port: Option<u16>,
    path: String,
    username: Option<String>,
    password: Option<Secret>,
}

impl StreamUrl {
    /// Reads an address as people type it. User name and password given apart win over those in the
    /// address and are taken as they are. Errors when it cannot be understood in exactly one way.
    pub fn parse(text: &str, username: Option<&str>, password: Option<&Secret>) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(UrlError::ControlCharacter);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let (scheme, tls) = match scheme.to_ascii_lowercase().as_str() {
            "rtsp" => ("rtsp", false),
            "rtsps" => ("rtsps", true),
            _ => return Err(UrlError::Scheme),
        };
        let (userinfo, rest) = split_userinfo(rest)?;
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_end);
        let (host, port) = host_and_port(authority, scheme)?;
        let (url_user, url_password) = match userinfo {
            None => (None, None),
            Some(info) => match info.split_once(':') {
                Some((user, password)) => {
                    (Some(percent_decoded(user)), Some(Secret::new(percent_decoded(password))))
                }
                None => (Some(percent_decoded(info)), None),
            },
        };
        let username = username.map(str::to_owned).or(url_user).filter(|user| !user.is_empty());
        let password = password.cloned().or(url_password).filter(|password| !password.reveal().is_empty());
        if password.is_some() && username.is_none() {
            return Err(UrlError::PasswordWithoutUser);
        }
        Ok(Self { tls, host: host.to_owned(), port, path: path.to_owned(), username, password })
    }

    /// The address without user name and password, for the one who connects. A camera may want secrets in
    /// its path or query: do not log this, log the [`fmt::Display`] form.
    pub fn location(&self) -> String {
        format!("{}{}", self.server(), self.path)
    }

    /// Scheme, host and port.
    pub fn server(&self) -> String {
        let scheme = if self.tls { "rtsps" } else { "rtsp" };
        match self.port {
            Some(port) => format!("{scheme}://{}:{port}", self.host),
            None => format!("{scheme}://{}", self.host),
        }
    }

    /// Host (without the brackets of IPv6) and port, 554 or 322 when none is given.
    pub fn address(&self) -> (String, u16) {
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (host, self.port.unwrap_or(if self.tls { 322 } else { 554 }))
    }

    /// True for rtsps.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// User name, when there is one.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Password, when there is one.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Takes this stream's password, and whatever looks like one, out of a text that others wrote.
    pub fn redacted(&self, text: &str) -> String {
        let text = match &self.password {
            Some(password) if password.reveal().len() >= 3 => text.replace(password.reveal(), "***"),
            _ => text.to_owned(),
        };
        redacted(&text)
    }
}

impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server();
        let (scheme, host) = server.split_once("://").unwrap_or(("rtsp", &server));
        match (&self.username, &self.password) {
            (Some(user), Some(_)) => write!(f, "{scheme}://{user}:***@{host}")?,
            (Some(user), None) => write!(f, "{scheme}://{user}@{host}")?,
            (None, _) => f.write_str(&server)?,
        }
        f.write_str(&redacted(&self.path))
    }
}

impl fmt::Debug for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamUrl({self})")
    }
}

/// Takes user names and passwords of URLs (`//user:password@`) and values of keys that look like a
/// password (`password=`, `pwd=`, `Authorization:`) out of a text.
pub fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(&redacted_word(word));
    }
    match out.to_ascii_lowercase().find("authorization:") {
        Some(at) => format!("{}authorization: ***", out.get(..at).unwrap_or("")),
        None => out,
    }
}

fn redacted_word(word: &str) -> String {
    let mut word = word.to_owned();
    if let (Some(start), Some(at)) = (word.find("://"), word.rfind('@'))
        && start + 3 <= at
    {
        word.replace_range(start + 3..at, "***");
    }
    // The value ends at '&' or '/' only: cameras use '_' as a separator, but passwords hold it too.
    let mut from = 0;
    loop {
        let lower = word.to_ascii_lowercase();
        let found = ["password=", "passwd=", "pass=", "pwd=", "psw=", "token="]
            .iter()
            .filter_map(|key| {
                lower.get(from..).and_then(|rest| rest.find(key)).map(|at| from + at + key.len())
            })
            .min();
        let Some(start) = found else { return word };
        let end =
            word.get(start..).and_then(|rest| rest.find(['&', '/'])).map_or(word.len(), |at| start + at);
        word.replace_range(start..end, "***");
        from = start + 3;
    }
}

/// User information before the host, if any, and the rest. See the tests for what is understood.
fn split_userinfo(rest: &str) -> Result<(Option<&str>, &str), UrlError> {
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let split_at = |at: usize| Ok((rest.get(..at), rest.get(at + 1..).unwrap_or("")));
    match authority.rfind('@') {
        Some(at) => {
            let host = authority.get(at + 1..).unwrap_or("");
            // "user:p@ss/word@host/" has an authority too: "user:p@ss", host "ss". A later '@' is believed
            // to belong to the path only when the host before it looks like one.
            if hosts_after_ats(tail) > 0 && !looks_like_a_host(host) {
                return Err(UrlError::Ambiguous);
            }
            split_at(at)
        }
        None => {
            let has_raw_separator = authority
                .rsplit_once(':')
                .is_some_and(|(_, port)| !authority.starts_with('[') && port.parse::<u16>().is_err());
            if !has_raw_separator || !tail.contains('@') {
                return Ok((None, rest));
            }
            if hosts_after_ats(tail) > 1 {
                return Err(UrlError::Ambiguous);
            }
            split_at(authority_end + tail.rfind('@').unwrap_or(0))
        }
    }
}

/// How many '@' in the text are followed by something that could be a host.
fn hosts_after_ats(text: &str) -> usize {
    text.match_indices('@')
        .filter(|(at, _)| {
            let after = text.get(at + 1..).unwrap_or("");
            let end = after.find(['/', '?', '#', '@']).unwrap_or(after.len());
            host_and_port(after.get(..end).unwrap_or(""), "rtsp").is_ok()
        })
        .count()
}

fn looks_like_a_host(authority: &str) -> bool {
    host_and_port(authority, "rtsp").is_ok_and(|(host, port)| {
        port.is_some() || host.contains('.') || host.starts_with('[') || host == "localhost"
    })
}

fn host_and_port<'a>(authority: &'a str, scheme: &'static str) -> Result<(&'a str, Option<u16>), UrlError> {
    let (host, port) = if let Some(end) = authority.strip_prefix('[').and_then(|_| authority.find(']')) {
        let (host, rest) = authority.split_at(end + 1);
        (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let valid_name = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let valid_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    if !valid_name && !valid_v6 {
        return Err(UrlError::Host { scheme });
    }
    match port {
        None => Ok((host, None)),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err(UrlError::Port),
        },
    }
}

/// Decodes %XX; a '%' that is not followed by two hex digits stands for itself, and so does a sequence
/// that would not be UTF-8.
fn percent_decoded(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        match (byte, hex(bytes.get(index + 1)), hex(bytes.get(index + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                index += 3;
            }
            _ => {
                out.push(*byte);
                index += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<String>, Option<String>) {
        let url = StreamUrl::parse(text, None, None).unwrap_or_else(|e| panic!("{text}: {e}"));
        (url.location(), url.username().map(str::to_owned), url.password().map(|p| p.reveal().to_owned()))
    }

    fn expect(text: &str, location: &str, user: &str, password: &str) {
        assert_eq!(
            read(text),
            (location.to_owned(), Some(user.to_owned()), Some(password.to_owned())),
            "{text}"
        );
    }

    #[test]
    fn clean_addresses() {
        assert_eq!(read("rtsp://10.0.0.5/stream"), ("rtsp://10.0.0.5/stream".to_owned(), None, None));
        assert_eq!(
            read("RTSPS://cam.local:322/a?b=1"),
            ("rtsps://cam.local:322/a?b=1".to_owned(), None, None)
        );
        assert_eq!(read("rtsp://[fe80::1]:554/a"), ("rtsp://[fe80::1]:554/a".to_owned(), None, None));
        assert_eq!(read("rtsp://10.0.0.5:554/ch@1"), ("rtsp://10.0.0.5:554/ch@1".to_owned(), None, None));
        assert_eq!(read("rtsp://cam/ch@1"), ("rtsp://cam/ch@1".to_owned(), None, None));
        assert_eq!(read("rtsp://admin@cam/"), ("rtsp://cam/".to_owned(), Some("admin".to_owned()), None));
        expect("rtsp://u:p%40s%2Fs@cam/x", "rtsp://cam/x", "u", "p@s/s");
    }

    #[test]
    fn raw_characters_in_passwords() {
        expect("rtsp://u:p@ss@10.0.0.5/x", "rtsp://10.0.0.5/x", "u", "p@ss");
        expect("rtsp://u:p#ss@10.0.0.5:554/x", "rtsp://10.0.0.5:554/x", "u", "p#ss");
        expect("rtsp://u:pa/ss@10.0.0.5/x", "rtsp://10.0.0.5/x", "u", "pa/ss");
        expect("rtsp://u:pa?ss@cam/x", "rtsp://cam/x", "u", "pa?ss");
        expect("rtsp://u:100%@cam/x", "rtsp://cam/x", "u", "100%");
        expect("rtsp://u:a:b@cam/x", "rtsp://cam/x", "u", "a:b");
        // A path with '@' after a host that looks like one.
        expect("rtsp://u:p@10.0.0.5/x@y", "rtsp://10.0.0.5/x@y", "u", "p");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_with_a_hint() {
        for text in ["rtsp://u:p@ss/word@cam/x", "rtsp://u:a/b@c@cam/x"] {
            assert_eq!(StreamUrl::parse(text, None, None), Err(UrlError::Ambiguous), "{text}");
        }
        assert!(UrlError::Ambiguous.to_string().contains("`password`"));
    }

    #[test]
    fn faults_are_named() {
        let fault = |text: &str| StreamUrl::parse(text, None, None).unwrap_err();
        assert_eq!(fault("http://cam/x"), UrlError::Scheme);
        assert_eq!(fault("cam/x"), UrlError::Scheme);
        assert_eq!(fault("rtsp:///x"), UrlError::Host { scheme: "rtsp" });
        assert_eq!(fault("rtsp://cam:99999/x"), UrlError::Port);
        assert_eq!(fault("rtsp://cam:0/x"), UrlError::Port);
        assert_eq!(fault("rtsp://cam/a b"), UrlError::ControlCharacter);
        assert_eq!(fault("rtsp://:secret@cam/x"), UrlError::PasswordWithoutUser);
    }

    #[test]
    fn separate_fields_win_and_are_taken_as_they_are() {
        let password = Secret::new("a%40b/c@d");
        let url = StreamUrl::parse("rtsp://x:y@cam/s", Some("me"), Some(&password)).unwrap();
        assert_eq!(url.username(), Some("me"));
        assert_eq!(url.password().map(Secret::reveal), Some("a%40b/c@d"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let url =
            StreamUrl::parse("rtsp://admin:hunter2@10.0.0.5:554/s?user=a&password=hunter3&ch=1", None, None)
                .unwrap();
        assert_eq!(url.to_string(), "rtsp://admin:***@10.0.0.5:554/s?user=a&password=***&ch=1");
        assert!(!format!("{url:?}").contains("hunter"));
        assert_eq!(url.redacted("bad hunter2 at rtsp://a:b@h/x"), "bad *** at rtsp://***@h/x");
        assert_eq!(redacted("Authorization: Basic abc"), "authorization: ***");
        assert_eq!(redacted("user=admin_password=x_y_channel=1"), "user=admin_password=***");
    }
}
