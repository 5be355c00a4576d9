//! Who may do what, as signed documents.
//!
//! ```text
//! root key (its BLAKE3 is the fleet id)
//! ├── admission issuer ── node certificates     who is in the cluster
//! └── people issuer ───── user certificates     who may change it
//!                         └── changes and jobs  what they ask for
//! ```
//!
//! Every signature covers a context line and the exact bytes that travel;
//! nothing signed is ever encoded again. Time and randomness are arguments.

mod certificate;
mod seal;
mod signature;
mod token;

pub use certificate::{
    CLOCK_SLACK, GRACE_WITHOUT_LEADER, IssuerCertificate, IssuerKind, NODE_CERTIFICATE_LIFE,
    NodeCertificate, NodeCredential, NodeRole, Role, TrustError, UserCertificate, UserCredential,
};
pub use seal::{SealError, open, seal};
pub use signature::{Context, PublicKey, SecretKey, SignatureError, Signed};
pub use token::{TOKEN_TEXT_BYTES_MAX, Token, TokenError, TokenSecretHash};
