//! Whether a job's author may have it run on this host. Pure: the time is an
//! argument.

use crate::cli::chain;
use potluck_specs::{
    FleetId, Job, Millis,
    job::{SignedJob, SignedJobError},
    trust::{TrustError, UserCertificate},
};

/// Checks a job before it is run here.
///
/// # Errors
/// Why it is not run, for people.
pub(super) fn verify_job(
    signed: &SignedJob,
    fleet: FleetId,
    cluster: &str,
    now: Millis,
) -> Result<Job, String> {
    verify_signed(signed, fleet, cluster, now).map(|(job, _)| job)
}

/// The same, with the job's author. It was accepted while its author's
/// certificate was valid, and must still be healed after that has ended: past
/// its end it is judged as at its end. New jobs of such an author are refused
/// by the scheduler, which judges by the present time.
///
/// # Errors
/// Why it is not run, for people.
pub(super) fn verify_signed(
    signed: &SignedJob,
    fleet: FleetId,
    cluster: &str,
    now: Millis,
) -> Result<(Job, UserCertificate), String> {
    let verified = match signed.verify(fleet, cluster, now) {
        Err(SignedJobError::Author(TrustError::Expired { ago })) => {
            signed.verify(fleet, cluster, now.since(ago))
        }
        verified => verified,
    };
    verified.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, AUTHOR_LIFE};
    use potluck_specs::trust::Role;

    const BEGIN: Millis = Millis(1_800_000_000_000);

    #[test]
    fn a_job_outlives_its_authors_certificate() {
        let (fleet, signed) = (testing::fleet(), testing::signed_job(BEGIN));
        let years = Millis(3 * 365 * 86_400_000);
        for now in [BEGIN, BEGIN + AUTHOR_LIFE, BEGIN + AUTHOR_LIFE + years] {
            let verified = verify_job(&signed, fleet, "main", now);
            assert_eq!(
                verified.map(|job| job.name.name),
                Ok("web".into()),
                "{now:?}"
            );
        }
        // The scheduler judges by its own time, so that nothing new comes in.
        let late = signed.verify(fleet, "main", BEGIN + AUTHOR_LIFE + years);
        assert!(
            matches!(
                late,
                Err(SignedJobError::Author(TrustError::Expired { .. }))
            ),
            "{late:?}"
        );
    }

    #[test]
    fn a_daemon_of_the_host_needs_an_operator_on_every_host() {
        let fleet = testing::fleet();
        let deployer = Role::Deployer {
            namespaces: vec!["default".into()],
        };
        for (roles, may) in [
            (vec![deployer.clone()], false),
            (vec![Role::Operator], false),
            (vec![deployer, Role::Operator], true),
            (vec![Role::Admin], true),
        ] {
            let signed = testing::signed_daemon(roles.clone(), BEGIN);
            let verified = verify_job(&signed, fleet, "main", BEGIN);
            assert_eq!(verified.is_ok(), may, "{roles:?} {verified:?}");
            if roles.len() == 1 && roles[0] != Role::Operator && !may {
                let why = verified.unwrap_err();
                assert!(why.contains("without isolation"), "{why}");
                assert!(why.contains("operator"), "{why}");
            }
        }
    }

    #[test]
    fn the_end_of_a_certificate_excuses_nothing_else() {
        let (fleet, signed) = (testing::fleet(), testing::signed_job(BEGIN));
        let late = BEGIN + AUTHOR_LIFE + AUTHOR_LIFE;
        let mut altered = signed.clone();
        altered.job.bytes[0] ^= 1;
        let early = Millis(BEGIN.0 - 86_400_000);
        let table = [
            ("altered", verify_job(&altered, fleet, "main", late)),
            ("other cluster", verify_job(&signed, fleet, "other", late)),
            (
                "other fleet",
                verify_job(&signed, FleetId([9; 32]), "main", late),
            ),
            ("not begun", verify_job(&signed, fleet, "main", early)),
            (
                "no deployer",
                verify_job(&testing::signed_by_viewer(BEGIN), fleet, "main", late),
            ),
        ];
        for (what, verified) in table {
            assert!(verified.is_err(), "{what}");
        }
    }
}
