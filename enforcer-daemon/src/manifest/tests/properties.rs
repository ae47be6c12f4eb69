//! Whatever the text is, parsing ends and does not panic; what is written is read back.

use proptest::prelude::*;

use super::*;

/// Pieces that a manifest is made of, and some that it is not.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "skills:", "a:", "b", " ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ", ": ", "\"", "'", "#", "&x ",
            "*x", "!t ", "|", ">", "? ", "---\n", "...\n", "<<: ", "~", "null", "true", "1", "1.5", "0x1f", "*", "\t",
            "allow_binaries: ", "network_scope: ", "match: ", "require_2fa: ", "sha256:", "/usr", "10.0.0.0/8", "::1", "%",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn host() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?(\\.[a-z][a-z0-9]{0,8}){0,3}"
}

fn port() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        (1..=u16::MAX).prop_map(|port| format!(":{port}")),
        (1..=u16::MAX, prop::sample::select(vec!["tcp", "udp"]))
            .prop_map(|(port, protocol)| format!(":{port}/{protocol}")),
    ]
}

fn destination() -> impl Strategy<Value = String> {
    let v4 = (any::<u32>(), 0_u8..=32).prop_map(|(bits, len)| {
        let net = ipnet::Ipv4Net::new(bits.into(), len).expect("a length up to 32").trunc();
        net.to_string()
    });
    let v6 = (any::<u128>(), 0_u8..=128)
        .prop_map(|(bits, len)| ipnet::Ipv6Net::new(bits.into(), len).expect("a length up to 128").trunc())
        .prop_filter("v4-mapped", |net| net.addr().to_ipv4_mapped().is_none())
        .prop_map(|net| format!("[{net}]"));
    prop_oneof![
        (prop_oneof![v4, v6, host(), host().prop_map(|host| format!("*.{host}"))], port())
            .prop_map(|(host, port)| format!("{host}{port}")),
        "unix:/[a-z/.]{0,30}[a-z]".prop_filter("..", |text| !text.contains("..")),
        "unix:@[ -~]{1,107}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        let _ = validated(&text);
    }

    #[test]
    fn arbitrary_yaml_does_not_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        let _ = validated(&pieces.concat());
    }

    #[test]
    fn mutated_manifests_do_not_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..4, piece()), 1..4),
    ) {
        let mut text: Vec<char> = full().chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        match parsed(&text) {
            // Every place lies in the text.
            Err(errors) => for error in &errors {
                let at = error.position.unwrap_or(Position::START);
                prop_assert!(at.line as usize <= text.lines().count() + 1, "{error}");
            },
            Ok(manifest) => drop(manifest.validate()),
        }
    }

    #[test]
    fn arbitrary_values_do_not_panic(text in any::<String>()) {
        let _ = text.parse::<Destination>();
        let _ = text.parse::<ListenAddress>();
        let _ = text.parse::<BinaryEntry>();
        let _ = text.parse::<DeleteBudget>();
        let _ = text.parse::<Grant>();
        let _ = text.parse::<CgroupPath>();
        let _ = text.parse::<UnitPattern>();
        let _ = text.parse::<ContainerSelector>();
        if let Ok(path) = text.parse::<ManifestPath>() {
            prop_assert_eq!(path.as_str().parse::<ManifestPath>().ok(), Some(path));
        }
    }

    #[test]
    fn digests_are_read_back(bytes in any::<[u8; 32]>()) {
        let digest = Digest::new(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        let upper = format!("sha256:{}", digest.to_string()["sha256:".len()..].to_uppercase());
        prop_assert_eq!(upper.parse::<Digest>().ok(), Some(digest));
    }

    #[test]
    fn budgets_are_read_back(limit in any::<u32>(), seconds in 1_u32..=86_400) {
        let budget: DeleteBudget = format!("{limit}/{seconds}s").parse().expect("a budget");
        prop_assert_eq!(budget.window_ns(), u64::from(seconds) * 1_000_000_000);
        prop_assert_eq!(budget.to_string().parse::<DeleteBudget>().ok(), Some(budget));
    }

    #[test]
    fn destinations_are_read_back(text in destination()) {
        let destination: Destination = text.parse().expect("a destination");
        prop_assert_eq!(destination.to_string().parse::<Destination>().ok(), Some(destination));
    }
}
