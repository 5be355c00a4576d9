//! What can befall a cluster, in words that the simulator and the testnet of
//! real processes share: `sim::draw` makes a script of one, which `sim` plays in
//! virtual time and `drill` on real nodes.

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// Whatever the seed draws: faults of all kinds, mixed.
    Random,
    /// Most of the cluster joins within seconds.
    JoinStorm,
    /// Leader after leader dies, hangs or is cut off.
    LeaderLoss,
    /// Whole racks are cut off, in both directions or in one.
    RackPartition,
    /// Leaders and single hosts lose sight of each other, in both directions
    /// or in one, while all others see both.
    BrokenSessions,
    /// Hosts die and come back all the time.
    Churn,
    /// Every agent is restarted, one after the other; the tasks live on.
    RollingRestart,
    /// All hosts go down and come up together.
    RestartOfAll,
    /// All sessions end at once and begin anew at once.
    MassReconnect,
    /// A rack is drained, and later takes work again.
    RackDrain,
    /// New versions roll out while hosts and leaders die.
    RolloutDuringFailure,
    /// More is asked for than fits.
    Overload,
    /// Work that ends, with faults of all kinds.
    Batch,
    /// Two gangs that can't run at once, with faults of all kinds.
    Gangs,
    /// A host comes back and is given its share; then something fails.
    Quiet,
    /// Exclusive slots, with faults of all kinds.
    Exclusive,
}

impl Scenario {
    /// All of them, in order.
    pub const ALL: [Scenario; 16] = [
        Scenario::Random,
        Scenario::JoinStorm,
        Scenario::LeaderLoss,
        Scenario::RackPartition,
        Scenario::BrokenSessions,
        Scenario::Churn,
        Scenario::RollingRestart,
        Scenario::RestartOfAll,
        Scenario::MassReconnect,
        Scenario::RackDrain,
        Scenario::RolloutDuringFailure,
        Scenario::Overload,
        Scenario::Batch,
        Scenario::Gangs,
        Scenario::Quiet,
        Scenario::Exclusive,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Random => "random",
            Scenario::JoinStorm => "join-storm",
            Scenario::LeaderLoss => "leader-loss",
            Scenario::RackPartition => "rack-partition",
            Scenario::BrokenSessions => "broken-sessions",
            Scenario::Churn => "churn",
            Scenario::RollingRestart => "rolling-restart",
            Scenario::RestartOfAll => "restart-of-all",
            Scenario::MassReconnect => "mass-reconnect",
            Scenario::RackDrain => "rack-drain",
            Scenario::RolloutDuringFailure => "rollout-during-failure",
            Scenario::Overload => "overload",
            Scenario::Batch => "batch",
            Scenario::Gangs => "gangs",
            Scenario::Quiet => "quiet",
            Scenario::Exclusive => "exclusive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Scenario::ALL, Scenario::value_variants());
        for scenario in Scenario::ALL {
            let value = scenario.to_possible_value();
            assert_eq!(
                value.map(|v| v.get_name().to_owned()),
                Some(scenario.name().to_owned())
            );
        }
    }
}
