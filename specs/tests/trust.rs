//! Chains of certificates and signed jobs: each way in which one can be wrong
//! is refused, with its own error.

mod common;

use common::{BEGIN, END, Fleet, NOW, key};
use potluck_specs::{
    Millis, NodeId, codec,
    job::{Isolation, Job, SignedJob, SignedJobError},
    trust::{
        CLOCK_SLACK, Context, GRACE_WITHOUT_LEADER, IssuerKind, NodeCertificate, NodeCredential,
        Role, Signed, TrustError, UserCertificate, UserCredential,
    },
};

/// What is wrong, the document, and whether its error is the right one.
type Case<T, E> = (&'static str, T, fn(&E) -> bool);

/// The fleet's own, and one whose keys it does not know.
fn fleets() -> (Fleet, Fleet) {
    (Fleet::new(1), Fleet::new(11))
}

fn node_with(fleet: &Fleet, change: impl Fn(&mut NodeCertificate)) -> NodeCredential {
    let mut certificate = fleet.node_certificate();
    change(&mut certificate);
    let issuer = fleet.issuer(IssuerKind::Admission);
    NodeCredential::issue(fleet.root.public(), issuer, &fleet.admission, &certificate)
}

fn user_with(fleet: &Fleet, change: impl Fn(&mut UserCertificate)) -> UserCredential {
    let mut certificate = fleet.user_certificate();
    change(&mut certificate);
    let issuer = fleet.issuer(IssuerKind::People);
    UserCredential::issue(fleet.root.public(), issuer, &fleet.people, &certificate)
}

#[test]
fn good_chains_hold() {
    let (fleet, _) = fleets();
    let node = fleet.node().verify(fleet.id(), NOW, Millis(0)).unwrap();
    assert_eq!(node, fleet.node_certificate());
    let user = fleet.user().verify(fleet.id(), NOW).unwrap();
    assert_eq!(user, fleet.user_certificate());
}

#[test]
fn time_has_slack_and_grace() {
    let (fleet, _) = fleets();
    let at = |now: Millis, grace: Millis| fleet.node().verify(fleet.id(), now, grace).err();
    let none = Millis(0);
    let slack = CLOCK_SLACK.0;
    let grace = GRACE_WITHOUT_LEADER;
    for now in [BEGIN.0 - slack, BEGIN.0, END.0, END.0 + slack] {
        assert!(at(Millis(now), none).is_none(), "{now}");
    }
    for now in [0, BEGIN.0 - slack - 1] {
        let error = at(Millis(now), none);
        assert!(
            matches!(error, Some(TrustError::NotYetValid { .. })),
            "{now}: {error:?}"
        );
    }
    for now in [END.0 + slack + 1, u64::MAX] {
        let error = at(Millis(now), none);
        assert!(
            matches!(error, Some(TrustError::Expired { .. })),
            "{now}: {error:?}"
        );
    }
    let last = END.0 + grace.0 + slack;
    assert!(at(Millis(last), grace).is_none());
    assert!(matches!(
        at(Millis(last + 1), grace),
        Some(TrustError::Expired { .. })
    ));
    // People get no grace.
    let late = fleet.user().verify(fleet.id(), Millis(END.0 + slack + 1));
    assert!(matches!(late, Err(TrustError::Expired { .. })), "{late:?}");
}

#[test]
fn each_wrong_node_chain_has_its_error() {
    let (ours, theirs) = fleets();
    let good = ours.node();
    let swap = |issuer: Signed| NodeCredential {
        issuer,
        ..good.clone()
    };
    let cases: Vec<Case<NodeCredential, TrustError>> = vec![
        ("another fleet", theirs.node(), |e| {
            matches!(e, TrustError::OtherFleet { .. })
        }),
        (
            "our root over their issuer",
            swap(theirs.issuer(IssuerKind::Admission)),
            |e| matches!(e, TrustError::Signature(_)),
        ),
        (
            "an issuer for people",
            swap(ours.issuer(IssuerKind::People)),
            |e| matches!(e, TrustError::WrongIssuer),
        ),
        (
            "signed by the issuer for people",
            NodeCredential::issue(
                ours.root.public(),
                ours.issuer(IssuerKind::Admission),
                &ours.people,
                &ours.node_certificate(),
            ),
            |e| matches!(e, TrustError::Signature(_)),
        ),
        (
            "a certificate that names another fleet",
            node_with(&ours, |c| c.fleet = theirs.id()),
            |e| matches!(e, TrustError::OtherFleet { .. }),
        ),
        (
            "an issuer certificate signed for something else",
            swap(Signed::new(
                &ours.root,
                Context::Node,
                good.issuer.bytes.clone(),
            )),
            |e| matches!(e, TrustError::Signature(_)),
        ),
        (
            "a user's certificate in a node's place",
            NodeCredential {
                certificate: ours.user().certificate,
                ..good.clone()
            },
            |e| matches!(e, TrustError::Signature(_)),
        ),
        (
            "well signed nonsense",
            NodeCredential {
                certificate: Signed::new(&ours.admission, Context::Node, vec![0xff; 40]),
                ..good.clone()
            },
            |e| matches!(e, TrustError::Malformed(_)),
        ),
        (
            "a well signed certificate that is too long",
            node_with(&ours, |c| c.name.0 = "n".repeat(4_000)),
            |e| matches!(e, TrustError::Malformed(_)),
        ),
    ];
    for (what, credential, right) in cases {
        let error = credential
            .verify(ours.id(), NOW, Millis(0))
            .expect_err(what);
        assert!(right(&error), "{what}: {error:?}");
    }
}

#[test]
fn an_admission_issuer_makes_no_users() {
    let (fleet, _) = fleets();
    let forged = UserCredential::issue(
        fleet.root.public(),
        fleet.issuer(IssuerKind::Admission),
        &fleet.admission,
        &fleet.user_certificate(),
    );
    let error = forged.verify(fleet.id(), NOW).unwrap_err();
    assert!(matches!(error, TrustError::WrongIssuer), "{error:?}");
}

/// Every single bit of a chain matters.
#[test]
fn a_changed_bit_anywhere_is_refused() {
    let (fleet, _) = fleets();
    let bytes = codec::encode(&fleet.node());
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(credential) = codec::decode_canonical::<NodeCredential>("chain", &changed, 8_192)
        else {
            continue;
        };
        let verified = credential.verify(fleet.id(), NOW, Millis(0));
        assert!(verified.is_err(), "bit {bit}");
    }
}

fn sign_as(fleet: &Fleet, author: UserCredential, change: impl Fn(&mut Job)) -> SignedJob {
    let mut job = fleet.job();
    change(&mut job);
    SignedJob::new(&key(110), author, &job)
}

#[test]
fn a_good_job_is_read_with_its_author() {
    let (fleet, _) = fleets();
    let (job, author) = fleet.signed_job().verify(fleet.id(), "main", NOW).unwrap();
    assert_eq!(job, fleet.job());
    assert_eq!(author.user, "ann");
    assert_eq!(fleet.signed_job().decode_unchecked().unwrap(), job);
}

#[test]
fn each_wrong_job_has_its_error() {
    let (ours, theirs) = fleets();
    let good = ours.signed_job();
    let role = |role: Role| user_with(&ours, |c| c.roles = vec![role.clone()]);
    let cases: Vec<Case<SignedJob, SignedJobError>> = vec![
        (
            "an author of another fleet",
            sign_as(&ours, theirs.user(), |_| {}),
            |e| matches!(e, SignedJobError::Author(TrustError::OtherFleet { .. })),
        ),
        (
            "an author whose certificate ended",
            sign_as(&ours, user_with(&ours, |c| c.not_after = BEGIN), |_| {}),
            |e| matches!(e, SignedJobError::Author(TrustError::Expired { .. })),
        ),
        (
            "signed by somebody else",
            SignedJob::new(&key(111), ours.user(), &ours.job()),
            |e| matches!(e, SignedJobError::Signature(_)),
        ),
        (
            "signed as another kind of document",
            SignedJob {
                job: Signed::new(&key(110), Context::Change, good.job.bytes.clone()),
                author: ours.user(),
            },
            |e| matches!(e, SignedJobError::Signature(_)),
        ),
        (
            "another fleet's job",
            sign_as(&ours, ours.user(), |job| job.fleet = Fleet::new(11).id()),
            |e| matches!(e, SignedJobError::Elsewhere { .. }),
        ),
        (
            "another cluster's job",
            sign_as(&ours, ours.user(), |job| job.cluster = "other".into()),
            |e| matches!(e, SignedJobError::Elsewhere { .. }),
        ),
        (
            "a namespace that is not the author's",
            sign_as(&ours, ours.user(), |job| job.name.namespace = "shop".into()),
            |e| matches!(e, SignedJobError::Forbidden { .. }),
        ),
        (
            "an author who may only look",
            sign_as(&ours, role(Role::Viewer), |_| {}),
            |e| matches!(e, SignedJobError::Forbidden { .. }),
        ),
        (
            "an author who may only operate",
            sign_as(&ours, role(Role::Operator), |_| {}),
            |e| matches!(e, SignedJobError::Forbidden { .. }),
        ),
        (
            "a daemon of the host by somebody who may only deploy",
            sign_as(&ours, ours.user(), |job| {
                job.task.isolation = Isolation::None
            }),
            |e| matches!(e, SignedJobError::NotIsolated { .. }),
        ),
        (
            "a signed job with something behind it",
            SignedJob {
                job: Signed::new(
                    &key(110),
                    Context::Job,
                    [&good.job.bytes[..], &[0]].concat(),
                ),
                author: ours.user(),
            },
            |e| matches!(e, SignedJobError::Malformed(_)),
        ),
        (
            "a signed job that is too long",
            sign_as(&ours, ours.user(), |job| {
                job.task.args = vec!["x".repeat(1_000); 300]
            }),
            |e| matches!(e, SignedJobError::Malformed(_)),
        ),
    ];
    for (what, job, right) in cases {
        let error = job.verify(ours.id(), "main", NOW).expect_err(what);
        assert!(right(&error), "{what}: {error:?}");
    }
    let admin = sign_as(&ours, role(Role::Admin), |job| {
        job.name.namespace = "shop".into()
    });
    assert!(admin.verify(ours.id(), "main", NOW).is_ok());
}

#[test]
fn roles_say_who_may_do_what() {
    let (fleet, _) = fleets();
    let deployer = Role::Deployer {
        namespaces: vec!["shop".into()],
    };
    for (roles, deploys_shop, deploys_other, operates) in [
        (vec![], false, false, false),
        (vec![Role::Viewer], false, false, false),
        (vec![Role::Operator], false, false, true),
        (vec![deployer.clone()], true, false, false),
        (
            vec![Role::Viewer, deployer, Role::Operator],
            true,
            false,
            true,
        ),
        (vec![Role::Admin], true, true, true),
    ] {
        let mut user = fleet.user_certificate();
        user.roles = roles;
        assert_eq!(user.may_deploy("shop"), deploys_shop, "{:?}", user.roles);
        assert_eq!(user.may_deploy("other"), deploys_other, "{:?}", user.roles);
        assert_eq!(user.may_operate(), operates, "{:?}", user.roles);
    }
}

/// The holder is compared by the caller: the certificate must say whose it is.
#[test]
fn the_certificate_names_its_holder() {
    let (fleet, _) = fleets();
    let other = node_with(&fleet, |c| c.node = NodeId([3; 32]));
    let certificate = other.verify(fleet.id(), NOW, Millis(0)).unwrap();
    assert_ne!(certificate.node, fleet.node_certificate().node);
}
