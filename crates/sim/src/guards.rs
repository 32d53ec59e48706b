//! The guards of the product that a build of its own can switch off.

use holmes_kernel::weak::Guard;

/// Every guard, with the word that it is switched off by.
pub const ALL: [(&str, Guard); 17] = [
    ("inbox", Guard::Inbox),
    ("chain", Guard::Chain),
    ("window", Guard::Window),
    ("age", Guard::Age),
    ("step", Guard::Step),
    ("fence", Guard::Fence),
    ("numbers", Guard::Numbers),
    ("durable", Guard::Durable),
    ("hold", Guard::Hold),
    ("moment", Guard::Moment),
    ("refused", Guard::Refused),
    ("owner", Guard::Owner),
    ("end", Guard::End),
    ("whole", Guard::Whole),
    ("leased", Guard::Leased),
    ("serves", Guard::Serves),
    ("kappa", Guard::Kappa),
];

/// The guard of a word.
pub fn named(word: &str) -> Option<Guard> {
    ALL.into_iter().find(|(name, _)| *name == word).map(|(_, guard)| guard)
}
