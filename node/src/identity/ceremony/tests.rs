//! The ceremony's files, and that there is only one.

use std::os::unix::fs::PermissionsExt;

use super::*;
use potluck_specs::trust::{IssuerKind, TrustError};
use tempfile::TempDir;

const NOW: Millis = Millis(1_800_000_000_000);

fn options(place: &TempDir) -> InitOptions {
    InitOptions {
        data: place.path().join("data"),
        config: place.path().join("config"),
        name: NodeName("node-1".into()),
        topology: Topology::in_rack("main", "rack-1"),
        user: "admin".into(),
        addresses: vec![([127, 0, 1, 1], 7_000).into()],
        gossip: Some(([127, 0, 1, 1], 7_001).into()),
        now: NOW,
    }
}

fn modes(folder: &Path) -> Vec<(String, u32)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        (entry.file_name().into_string().unwrap(), mode)
    });
    let mut modes: Vec<_> = entries.collect();
    modes.sort();
    modes
}

fn is_open(mode: u32) -> bool {
    mode & 0o077 != 0
}

#[test]
fn the_ceremony_leaves_these_files() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    init(&options).unwrap();
    let data = modes(&options.data);
    let names: Vec<&str> = data.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "cluster.cbor",
            "credential.cbor",
            "genesis.cbor",
            "lock",
            "node.key"
        ]
    );
    let config = modes(&options.config);
    let names: Vec<&str> = config.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "admin.credential",
            "admin.key",
            "people-issuer.certificate",
            "people-issuer.key",
            "profile.json",
            "root.key"
        ]
    );
    let public = [
        "admin.credential",
        "credential.cbor",
        "people-issuer.certificate",
        "profile.json",
    ];
    for (name, mode) in data.iter().chain(&config) {
        assert_eq!(
            is_open(*mode),
            public.contains(&name.as_str()),
            "{name} {mode:o}"
        );
    }
    for folder in [&options.data, &options.config] {
        let mode = std::fs::metadata(folder).unwrap().permissions().mode();
        assert!(!is_open(mode), "{}", folder.display());
    }
}

#[test]
fn all_chains_hold() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    let ceremony = init(&options).unwrap();
    let folder = DataFolder::open(&options.data).unwrap();
    let genesis = folder.genesis().unwrap().unwrap();
    assert_eq!(genesis, ceremony.genesis);
    assert_eq!(genesis.root.fleet(), ceremony.fleet);

    let certificate = folder.certificate(NOW, Millis(0)).unwrap().unwrap();
    assert_eq!(certificate.node, ceremony.node);
    assert_eq!(certificate.node, folder.node_key().unwrap().node());
    assert_eq!(certificate.name, options.name);
    assert!(certificate.roles.contains(&NodeRole::VoterEligible));
    let cluster = folder.cluster().unwrap().unwrap();
    assert_eq!(cluster.fleet, ceremony.fleet);
    assert_eq!(cluster.cluster, "main");
    assert_eq!(cluster.ring, genesis.ring);
    assert_eq!(cluster.members[0].gossip, options.gossip);

    let profile = Profile::load(&options.config).unwrap();
    let user = profile.certificate(NOW).unwrap();
    assert_eq!(user.user, "admin");
    assert!(user.may_operate() && user.may_deploy("default"));
    assert_eq!(profile.nodes[0].node, ceremony.node);
    assert_eq!(profile.nodes[0].addresses, options.addresses);
    assert_eq!(profile.root(), genesis.root);
    let late = NOW + USER_CERTIFICATE_LIFE + Millis(600_000);
    assert!(matches!(
        profile.certificate(late),
        Err(ProfileError::Credential {
            source: TrustError::Expired { .. },
            ..
        })
    ));
}

#[test]
fn the_first_node_can_let_others_in_and_pass_that_on() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    let genesis = init(&options).unwrap().genesis;
    let key = DataFolder::open(&options.data).unwrap().node_key().unwrap();
    let open = |sealed: &[u8], key: &SecretKey| {
        Issuer::open(genesis.root, genesis.admission_issuer.clone(), sealed, key)
    };
    let issuer = open(&genesis.sealed_issuer, &key).unwrap();
    let other = SecretKey::from_seed([9; 32]);
    assert!(matches!(
        open(&genesis.sealed_issuer, &other),
        Err(IssuerError::Sealed(_))
    ));
    let sealed = issuer.seal_for(other.node()).unwrap();
    let passed_on = open(&sealed, &other).unwrap();
    let credential = passed_on.issue(
        other.node(),
        NodeName("node-2".into()),
        Topology::in_rack("main", "rack-2"),
        &[NodeRole::VoterEligible, NodeRole::Agent, NodeRole::Agent],
        NOW,
        2,
    );
    let certificate = credential.verify(genesis.fleet, NOW, Millis(0)).unwrap();
    assert_eq!(certificate.node, other.node());
    assert_eq!(
        certificate.roles,
        [NodeRole::Agent, NodeRole::VoterEligible]
    );
    assert!(!super::super::needs_renewal(
        &certificate,
        NOW + Millis(9 * 86_400_000)
    ));
    assert!(super::super::needs_renewal(
        &certificate,
        NOW + Millis(10 * 86_400_000)
    ));
    let renewed = passed_on.renew(&certificate, NOW + Millis(1), 3);
    let renewed = renewed.verify(genesis.fleet, NOW, Millis(0)).unwrap();
    assert_eq!(
        (renewed.serial, renewed.node, &renewed.name),
        (3, other.node(), &certificate.name)
    );

    // The secret of another issuer does not pass for this one's.
    let stranger = potluck_specs::trust::seal(&key.public(), &[1; 32], [2; 32]).unwrap();
    assert!(matches!(open(&stranger, &key), Err(IssuerError::OtherKey)));
    let short = potluck_specs::trust::seal(&key.public(), &[1; 31], [2; 32]).unwrap();
    assert!(matches!(open(&short, &key), Err(IssuerError::OtherKey)));
}

#[test]
fn the_people_issuer_signs_no_nodes() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    let genesis = init(&options).unwrap().genesis;
    let people = files::read_key(&options.config.join("people-issuer.key"))
        .unwrap()
        .unwrap();
    let path = options.config.join("people-issuer.certificate");
    let certificate: Signed = files::read_value(&path, "certificate").unwrap().unwrap();
    let root = files::read_key(&options.config.join("root.key"))
        .unwrap()
        .unwrap();
    assert_eq!(root.public(), genesis.root);
    assert_eq!(certify(&root, IssuerKind::People, &people), certificate);
    let issuer = Issuer::new(genesis.root, certificate, people);
    let node = NodeId([1; 32]);
    let topology = Topology::in_rack("main", "rack-1");
    let credential = issuer.issue(node, NodeName("x".into()), topology, &[], NOW, 9);
    assert!(matches!(
        credential.verify(genesis.fleet, NOW, Millis(0)),
        Err(TrustError::WrongIssuer)
    ));
}

#[test]
fn there_is_no_second_ceremony() {
    let place = tempfile::tempdir().unwrap();
    let first = options(&place);
    init(&first).unwrap();
    let before = (modes(&first.data), modes(&first.config));
    let other_data = InitOptions {
        data: place.path().join("data-2"),
        ..first.clone()
    };
    let other_config = InitOptions {
        config: place.path().join("config-2"),
        ..first.clone()
    };
    for again in [&first, &other_data, &other_config] {
        let error = init(again).unwrap_err();
        assert!(matches!(error, InitError::Exists { .. }), "{error}");
    }
    assert_eq!((modes(&first.data), modes(&first.config)), before);
    assert!(!other_data.data.exists());
}

#[test]
fn a_node_that_waits_to_join_is_not_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    let folder = DataFolder::open(&options.data).unwrap();
    let error = init(&options).unwrap_err();
    assert!(
        matches!(error, InitError::Folder(FolderError::InUse { .. })),
        "{error}"
    );
    folder.node_key().unwrap();
    drop(folder);
    assert!(matches!(init(&options), Err(InitError::Exists { .. })));
}

#[test]
fn names_are_checked_first() {
    let place = tempfile::tempdir().unwrap();
    let good = options(&place);
    let bad = [
        InitOptions {
            user: "../x".into(),
            ..good.clone()
        },
        InitOptions {
            name: NodeName("Node".into()),
            ..good.clone()
        },
        InitOptions {
            topology: Topology::in_rack("a b", "r"),
            ..good
        },
    ];
    for options in bad {
        assert!(matches!(init(&options), Err(InitError::Name(_))));
        assert!(!options.data.exists() && !options.config.exists());
    }
}

#[test]
fn a_profile_says_what_is_wrong_with_it() {
    let place = tempfile::tempdir().unwrap();
    let options = options(&place);
    assert!(matches!(
        Profile::load(&options.config),
        Err(ProfileError::Missing { .. })
    ));
    init(&options).unwrap();
    let path = options.config.join("profile.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"fleet\"", "\"flet\""),
        ("\"admin\"", "\"../admin\""),
        ("7000", "700000"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = Profile::load(&options.config).unwrap_err();
        assert!(matches!(error, ProfileError::Invalid { .. }), "{error}");
    }
    std::fs::write(&path, &text).unwrap();
    let mut profile = Profile::load(&options.config).unwrap();
    profile.nodes[0].addresses.clear();
    profile.save_nodes(&options.config).unwrap();
    assert!(
        Profile::load(&options.config).unwrap().nodes[0]
            .addresses
            .is_empty()
    );
    std::fs::remove_file(options.config.join("admin.key")).unwrap();
    assert!(matches!(
        Profile::load(&options.config),
        Err(ProfileError::Missing { .. })
    ));
}
