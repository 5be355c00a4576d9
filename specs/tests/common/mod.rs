//! A fleet to test with: keys, issuers, one node, one user, one signed job.

#![allow(dead_code, reason = "each test file takes what it needs")]

use potluck_specs::{
    FleetId, Job, JobName, Millis, NodeName, PackageId, Topology, codec,
    job::{JobKind, Resources, SignedJob, TaskTemplate},
    trust::{
        Context, IssuerCertificate, IssuerKind, NodeCertificate, NodeCredential, NodeRole, Role,
        SecretKey, Signed, UserCertificate, UserCredential,
    },
};

/// When the certificates begin, and end.
pub(crate) const BEGIN: Millis = Millis(1_000_000_000);
pub(crate) const END: Millis = Millis(2_000_000_000);
pub(crate) const NOW: Millis = Millis(1_500_000_000);

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// Keys of a fleet, all from one seed.
pub(crate) struct Fleet {
    pub(crate) root: SecretKey,
    pub(crate) admission: SecretKey,
    pub(crate) people: SecretKey,
}

impl Fleet {
    pub(crate) fn new(seed: u8) -> Fleet {
        Fleet {
            root: key(seed),
            admission: key(seed + 1),
            people: key(seed + 2),
        }
    }

    pub(crate) fn id(&self) -> FleetId {
        self.root.public().fleet()
    }

    pub(crate) fn issuer(&self, kind: IssuerKind) -> Signed {
        let key = match kind {
            IssuerKind::Admission => self.admission.public(),
            IssuerKind::People => self.people.public(),
        };
        let fleet = self.id();
        let certificate = IssuerCertificate { fleet, kind, key };
        Signed::new(&self.root, Context::Issuer, codec::encode(&certificate))
    }

    pub(crate) fn node_certificate(&self) -> NodeCertificate {
        NodeCertificate {
            fleet: self.id(),
            node: key(100).node(),
            name: NodeName("n1".into()),
            topology: Topology {
                region: "local".into(),
                datacenter: "local".into(),
                cluster: "main".into(),
                rack: "r1".into(),
            },
            roles: vec![NodeRole::Agent, NodeRole::VoterEligible],
            serial: 7,
            not_before: BEGIN,
            not_after: END,
        }
    }

    pub(crate) fn node(&self) -> NodeCredential {
        NodeCredential::issue(
            self.root.public(),
            self.issuer(IssuerKind::Admission),
            &self.admission,
            &self.node_certificate(),
        )
    }

    pub(crate) fn user_certificate(&self) -> UserCertificate {
        UserCertificate {
            fleet: self.id(),
            user: "ann".into(),
            key: key(110).public(),
            roles: vec![Role::Deployer {
                namespaces: vec!["default".into()],
            }],
            not_before: BEGIN,
            not_after: END,
        }
    }

    pub(crate) fn user(&self) -> UserCredential {
        UserCredential::issue(
            self.root.public(),
            self.issuer(IssuerKind::People),
            &self.people,
            &self.user_certificate(),
        )
    }

    pub(crate) fn job(&self) -> Job {
        Job {
            fleet: self.id(),
            cluster: "main".into(),
            name: JobName::in_default("web"),
            version: 1,
            kind: JobKind::service(2),
            package: PackageId([9; 32]),
            task: TaskTemplate {
                command: "web".into(),
                args: vec!["x".into()],
                env: [("A".into(), "1".into())].into(),
                resources: Resources::new(10, 1 << 20),
                ..TaskTemplate::default()
            },
            ..Job::default()
        }
    }

    pub(crate) fn signed_job(&self) -> SignedJob {
        SignedJob::new(&key(110), self.user(), &self.job())
    }
}
