//! Destinations: every form that is accepted, and what is said of the others.

use super::*;

#[test]
fn forms_and_what_they_are_written_as() {
    for (text, written) in [
        ("api.github.com", "api.github.com"),
        ("API.GitHub.com.", "api.github.com"),
        ("api.github.com:443", "api.github.com:443"),
        ("api.github.com:443/udp", "api.github.com:443/udp"),
        ("*.example.com", "*.example.com"),
        ("*.example.com:443/tcp", "*.example.com:443/tcp"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("localhost:80", "localhost:80"),
        ("3com.com", "3com.com"),
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4/32", "1.2.3.4"),
        ("1.2.3.4:53/udp", "1.2.3.4:53/udp"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:5432", "10.0.0.0/8:5432"),
        ("10.0.0.0/8:5432/tcp", "10.0.0.0/8:5432/tcp"),
        ("0.0.0.0/0:65535", "0.0.0.0/0:65535"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("[2001:db8::/32]:443/tcp", "[2001:db8::/32]:443/tcp"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::1", "::1"),
        ("::", "::"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:@name", "unix:@name"),
    ] {
        let destination: Destination = text.parse().expect(text);
        assert_eq!(destination.to_string(), written, "{text}");
    }
}

#[test]
fn parts() {
    let destination: Destination = "10.0.0.0/8:5432/tcp".parse().expect("a prefix");
    let prefix = "10.0.0.0/8".parse().expect("a prefix");
    assert_eq!(destination, Destination::Net { prefix, port: Some(5432), protocol: Some(Protocol::Tcp) });
    let destination: Destination = "*.Example.com:443".parse().expect("a name");
    let name = "example.com".parse().expect("a name");
    assert_eq!(destination, Destination::Name { name, wildcard: true, port: Some(443), protocol: None });
}

#[test]
fn refusals() {
    let label = "a".repeat(64);
    let long = vec!["a".repeat(60); 5].join(".");
    for (text, why, hint) in [
        ("", "it is empty", ""),
        ("a b", "it has ' '", ""),
        ("a:0", "port 0", "leave the port out for every port"),
        ("a:70000", "port 70000", ""),
        ("1.2.3.4:65536", "port 65536", ""),
        ("a:http", "\"http\" is no port", ""),
        ("a:", "\"\" is no port", ""),
        ("a:+1", "\"+1\" is no port", ""),
        ("a:1/sctp", "protocol \"sctp\"", ""),
        ("1.2.3.4/tcp", "a protocol without a port", "write :PORT before it"),
        (
            "10.0.0.1/8",
            "bits are set behind the first 8",
            "write 10.0.0.0/8 for the prefix, or 10.0.0.1 for the address",
        ),
        (
            "2001:db8::1/32",
            "bits are set behind the first 32",
            "write 2001:db8::/32 for the prefix, or 2001:db8::1 for the address",
        ),
        ("10.0.0.0/33", "prefix length \"33\"", ""),
        ("10.0.0.0/", "prefix length \"\"", ""),
        ("10.0.0.0/+8", "prefix length \"+8\"", ""),
        ("::/129", "prefix length \"129\"", ""),
        ("::ffff:10.0.0.1", "IPv4 written as IPv6", "write 10.0.0.1"),
        ("[::ffff:10.0.0.1]:80", "IPv4 written as IPv6", "write 10.0.0.1"),
        ("::ffff:10.0.0.0/104", "IPv4 written as IPv6", "write 10.0.0.0/8"),
        ("::ffff:0:0/96", "IPv4 written as IPv6", "write 0.0.0.0/0"),
        ("2001:db8::/32:443", "a port after an IPv6 prefix without brackets", "write \"[2001:db8::/32]:443\""),
        ("2001:zz::1", "not an IPv6 address", ""),
        ("[2001:db8::1", "no `]`", ""),
        ("[2001:db8::1]443", "no `:` after `]`", ""),
        ("[1.2.3.4]:80", "brackets are for IPv6", "write 1.2.3.4:80"),
        ("fe80::1%eth0", "scope \"eth0\"", "leave out the `%` and what follows"),
        ("1.2.3", "looks like a bad address", ""),
        ("1.2.3.400", "looks like a bad address", ""),
        ("010.0.0.1", "looks like a bad address", ""),
        ("10.0.0/8", "looks like a bad address", ""),
        ("2130706433", "looks like a bad address", ""),
        ("0x7f000001", "looks like a bad address", ""),
        ("127.0x1", "looks like a bad address", ""),
        ("münchen.de", "not ASCII", "write an internationalised name in its ASCII form, label by label: xn--…"),
        ("a..b", "a label is empty", ""),
        (".", "it is empty", ""),
        ("a_b", "it has '_'", ""),
        ("-a.b", "a label starts or ends with `-`", ""),
        (&label, "a label has 64 bytes, at most 63", ""),
        (&long, "304 bytes, at most 253", ""),
        (
            "a.*.b",
            "`*` stands for whole labels at the start",
            "write \"*.example.com\" for every name below example.com",
        ),
        (
            "*a.b",
            "`*` stands for whole labels at the start",
            "write \"*.example.com\" for every name below example.com",
        ),
        (
            "*:443",
            "`*` stands alone in its list",
            "write \"0.0.0.0/0:PORT\" and \"[::/0]:PORT\" for one port of every address",
        ),
        ("https://a.b/c", "a URL", "write the name alone: \"a.b:443\""),
        ("a.b/c", "a name with a path or a prefix length", "the kernel sees addresses and ports, no paths"),
        ("unix:a", "", ""),
        ("unix:@", "", ""),
    ] {
        let error = text.parse::<Destination>().expect_err(text);
        assert!(error.found.contains(&format!("({why})")) || why.is_empty(), "{text}: {error}");
        assert_eq!(error.hint.as_deref().unwrap_or_default(), hint, "{text}");
        assert!(error.to_string().len() < 400, "{text}");
    }
}

#[test]
fn listen_takes_addresses_only() {
    for text in ["127.0.0.1:8080", "[::1]:8080/tcp", "0.0.0.0", "10.0.0.0/8:80"] {
        assert_eq!(text.parse::<ListenAddress>().expect(text).to_string(), text);
    }
    for text in ["localhost:80", "*:80", "8080", ":8080", "unix:/a"] {
        assert!(text.parse::<ListenAddress>().is_err(), "{text}");
    }
}
