//! What tests of this crate share: a fleet with fixed keys, its issuers, its
//! people and their jobs.

use crate::{
    api::change::{ChangeRequest, SignedChange},
    identity::Issuer,
};
use potluck_specs::{
    FleetId, Job, JobName, Millis, PackageId, codec,
    job::{Isolation, SignedJob, TaskTemplate},
    trust::{
        Context, IssuerCertificate, IssuerKind, Role, SecretKey, Signed, UserCertificate,
        UserCredential,
    },
};

/// How long certificates of people are valid here.
pub(crate) const AUTHOR_LIFE: Millis = Millis(365 * 86_400_000);

fn root() -> SecretKey {
    SecretKey::from_seed([1; 32])
}

/// The fleet.
pub(crate) fn fleet() -> FleetId {
    root().public().fleet()
}

fn certify(kind: IssuerKind, key: &SecretKey) -> Signed {
    let certificate = IssuerCertificate {
        fleet: fleet(),
        kind,
        key: key.public(),
    };
    Signed::new(&root(), Context::Issuer, codec::encode(&certificate))
}

/// Who signs nodes in.
pub(crate) fn issuer() -> Issuer {
    let key = SecretKey::from_seed([2; 32]);
    Issuer::new(root().public(), certify(IssuerKind::Admission, &key), key)
}

/// A job of a deployer whose certificate begins at `begin`.
pub(crate) fn signed_job(begin: Millis) -> SignedJob {
    let namespaces = vec!["default".into()];
    signed_by(Role::Deployer { namespaces }, begin)
}

/// The same of somebody who may only look.
pub(crate) fn signed_by_viewer(begin: Millis) -> SignedJob {
    signed_by(Role::Viewer, begin)
}

fn signed_by(role: Role, begin: Millis) -> SignedJob {
    let (key, author) = person(role, begin);
    SignedJob::new(&key, author, &job(PackageId([0; 32])))
}

/// A job whose tasks are daemons of their hosts.
pub(crate) fn signed_daemon(roles: Vec<Role>, begin: Millis) -> SignedJob {
    let (key, author) = person_with(roles, begin);
    let mut job = job(PackageId([0; 32]));
    job.task.isolation = Isolation::None;
    SignedJob::new(&key, author, &job)
}

/// A job that runs this package.
pub(crate) fn signed_job_of(package: PackageId) -> SignedJob {
    let (key, author) = person(Role::Admin, Millis(0));
    SignedJob::new(&key, author, &job(package))
}

/// A change of an operator, or of somebody who may only look.
pub(crate) fn signed_change(begin: Millis, request: &ChangeRequest, may: bool) -> SignedChange {
    let role = if may { Role::Operator } else { Role::Viewer };
    let (key, author) = person(role, begin);
    SignedChange::new(&key, author, request)
}

/// A person with this role, whose certificate begins at `begin`.
pub(crate) fn person(role: Role, begin: Millis) -> (SecretKey, UserCredential) {
    person_with(vec![role], begin)
}

fn person_with(roles: Vec<Role>, begin: Millis) -> (SecretKey, UserCredential) {
    let [people, key] = [3, 4].map(|k| SecretKey::from_seed([k; 32]));
    let certificate = UserCertificate {
        fleet: fleet(),
        user: "ann".into(),
        key: key.public(),
        roles,
        not_before: begin,
        not_after: begin + AUTHOR_LIFE,
    };
    let issuer = certify(IssuerKind::People, &people);
    let credential = UserCredential::issue(root().public(), issuer, &people, &certificate);
    (key, credential)
}

fn job(package: PackageId) -> Job {
    Job {
        fleet: fleet(),
        cluster: "main".into(),
        name: JobName::in_default("web"),
        version: 1,
        package,
        task: TaskTemplate::new("run"),
        ..Job::default()
    }
}
