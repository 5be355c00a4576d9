//! Sets of hosts, by number: sides of a partition, who is heard.

/// A set of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSet {
    words: Vec<u64>,
}

/// One host as a set.
pub fn only(host: usize) -> HostSet {
    HostSet::of([host])
}

/// The first so many hosts.
pub fn everybody(hosts: usize) -> HostSet {
    HostSet::of(0..hosts)
}

impl HostSet {
    /// These hosts.
    pub fn of(hosts: impl IntoIterator<Item = usize>) -> HostSet {
        let mut set = HostSet::default();
        for host in hosts {
            set.insert(host);
        }
        set
    }

    /// Adds a host; false if it was in already.
    pub fn insert(&mut self, host: usize) -> bool {
        let (word, bit) = (host / 64, 1 << (host % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Is it in?
    pub fn contains(&self, host: usize) -> bool {
        let word = self.words.get(host / 64);
        word.is_some_and(|word| word & (1 << (host % 64)) != 0)
    }

    /// Adds all of another set.
    pub fn unite(&mut self, other: &HostSet) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    /// What is in this one and not in the other.
    pub fn without(&self, other: &HostSet) -> HostSet {
        let mut left = self.clone();
        for (mine, theirs) in left.words.iter_mut().zip(&other.words) {
            *mine &= !theirs;
        }
        left
    }

    /// Nobody is in.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.words.len() * 64).filter(|host| self.contains(*host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_those_of_the_textbook() {
        let mut some = HostSet::of([1, 63, 64, 999]);
        assert!(some.contains(999) && !some.contains(998) && !some.contains(5_000));
        assert!(!some.insert(64) && some.insert(2));
        assert_eq!(some.iter().collect::<Vec<_>>(), [1, 2, 63, 64, 999]);
        some.unite(&only(3));
        let left = everybody(70).without(&some);
        assert_eq!(left.iter().count(), 70 - 5);
        assert!(some.without(&everybody(1_000)).is_empty());
    }
}
