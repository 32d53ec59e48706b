//! What the proof of a call lets its caller do, and what a call asks of it.
//!
//! A signature may do all that its account may. An API key lies in programs and on other people's machines, so it does
//! only what it was made for: it acts as some of its account's roles, and neither moves money nor changes rights without
//! the scope `admin`. Nodes, gateways and services sign with their only key, and what they may do follows from what they
//! are: their machine decides that, not this page.

use holmes_kernel::{Code, Principal, PrincipalKind, Refusal};
use tonic::{Request, Status};

use super::{Roles, status};

/// What a proof lets its caller do; the runtime's authentication puts it beside the principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it may act as: never more than its account.
    pub roles: Roles,
    /// By what it is proven.
    pub by: Proof,
}

/// By what a caller is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A signature over the whole request.
    Signature,
    /// An API key.
    Key {
        /// Whether it has the scope `admin`.
        admin: bool,
    },
}

/// What a call asks of an account's proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Rents: sessions, generations, embeddings.
    Renter,
    /// Runs compute nodes.
    Operator,
    /// Runs verifier nodes.
    Verifier,
    /// Runs nodes of either kind.
    Nodes,
    /// Takes part at all: opens accounts, and says by which of them it pays and is paid.
    Party,
    /// Moves money, or changes what accounts may.
    Admin,
}

impl Scope {
    /// A signature of who has these roles.
    pub const fn signature(roles: Roles) -> Scope {
        Scope { roles, by: Proof::Signature }
    }

    /// An API key with these roles.
    pub const fn key(roles: Roles, admin: bool) -> Scope {
        Scope { roles, by: Proof::Key { admin } }
    }

    const fn is_admin(self) -> bool {
        matches!(self.by, Proof::Signature | Proof::Key { admin: true })
    }

    /// Whether a caller with this proof may ask for what needs this.
    ///
    /// # Errors
    /// With the role or scope that is missing, and how to come by it.
    pub fn allows(self, who: Principal, needs: Needs) -> Result<(), Refusal> {
        let met = match who.kind {
            PrincipalKind::Account => needs.met_by(self),
            // Whoever acts as staff has the role; what else staff may do, machines decide.
            PrincipalKind::Staff => needs != Needs::Admin || self.is_admin(),
            PrincipalKind::Node | PrincipalKind::Gateway | PrincipalKind::Service | PrincipalKind::System => {
                true
            }
        };
        if met { Ok(()) } else { Err(self.refusal(needs)) }
    }

    fn refusal(self, needs: Needs) -> Refusal {
        let role = needs.words();
        let (reason, message) = match (needs, self.by) {
            (Needs::Admin, _) => (
                "ADMIN_NEEDED",
                "this API key has not the scope admin, without which a key neither moves money nor changes rights: \
                 sign the request, or make a key with it (CreateApiKey, \"admin\": true)"
                    .to_owned(),
            ),
            (_, Proof::Key { .. }) => (
                "KEY_SCOPE",
                format!(
                    "this API key does not act as {role}: make one that does (CreateApiKey with that role, for an \
                     account that has it), or sign the request"
                ),
            ),
            (_, Proof::Signature) => (
                "ROLE_NEEDED",
                format!("this account does not act as {role}: ask the network's staff for the role (SetRoles)"),
            ),
        };
        Refusal::new(Code::Forbidden, reason, message)
    }
}

impl Needs {
    fn met_by(self, scope: Scope) -> bool {
        match self {
            Needs::Renter => scope.roles.contain(Roles::RENTER),
            Needs::Operator => scope.roles.contain(Roles::OPERATOR),
            Needs::Verifier => scope.roles.contain(Roles::VERIFIER),
            Needs::Nodes => scope.roles.meet(Roles::OPERATOR | Roles::VERIFIER),
            Needs::Party => {
                let any = Roles::RENTER | Roles::OPERATOR | Roles::VERIFIER;
                scope.roles.meet(any) || scope.is_admin()
            }
            Needs::Admin => scope.is_admin(),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Needs::Renter => "renter",
            Needs::Operator => "operator",
            Needs::Verifier => "verifier",
            Needs::Nodes => "operator or verifier",
            Needs::Party => "renter, operator or verifier",
            Needs::Admin => "admin",
        }
    }
}

/// Whether the proof of a request is enough for what it asks. Every `api.rs` asks this of every RPC that an account may
/// call to change something.
pub fn needs<T>(request: &Request<T>, needs: Needs) -> Result<(), Status> {
    let who = super::principal(request)?;
    // A principal without a scope was named by somebody who proved nothing of what it may.
    let nothing = Scope::key(Roles::NONE, false);
    let scope = request.extensions().get::<Scope>().copied().unwrap_or(nothing);
    scope.allows(who, needs).map_err(status)
}

#[cfg(test)]
mod tests {
    use holmes_kernel::Id;
    use tonic_types::StatusExt as _;

    use super::*;

    const ALL: [Needs; 6] =
        [Needs::Renter, Needs::Operator, Needs::Verifier, Needs::Nodes, Needs::Party, Needs::Admin];

    fn who(kind: PrincipalKind) -> Principal {
        Principal::new(kind, Id::from_bytes([1; 16]))
    }

    /// For each need in its order: what an account's proof is refused for, or nothing.
    fn told(scope: Scope) -> [&'static str; 6] {
        ALL.map(|needs| match scope.allows(who(PrincipalKind::Account), needs) {
            Ok(()) => "",
            Err(refusal) => match refusal.reason.as_ref() {
                "KEY_SCOPE" => "key",
                "ROLE_NEEDED" => "role",
                "ADMIN_NEEDED" => "admin",
                other => panic!("{other}"),
            },
        })
    }

    #[test]
    fn a_key_does_what_it_was_made_for_and_a_signature_what_its_account_may() {
        let both = Roles::RENTER | Roles::OPERATOR;
        let table = [
            (Scope::key(Roles::NONE, false), ["key", "key", "key", "key", "key", "admin"]),
            (Scope::key(Roles::RENTER, false), ["", "key", "key", "key", "", "admin"]),
            (Scope::key(Roles::OPERATOR, false), ["key", "", "key", "", "", "admin"]),
            (Scope::key(Roles::VERIFIER, false), ["key", "key", "", "", "", "admin"]),
            (Scope::key(both, false), ["", "", "key", "", "", "admin"]),
            (Scope::key(Roles::NONE, true), ["key", "key", "key", "key", "", ""]),
            (Scope::key(Roles::RENTER, true), ["", "key", "key", "key", "", ""]),
            (Scope::signature(Roles::NONE), ["role", "role", "role", "role", "", ""]),
            (Scope::signature(Roles::OPERATOR), ["role", "", "role", "", "", ""]),
        ];
        for (scope, expected) in table {
            assert_eq!(told(scope), expected, "{scope:?}");
        }
    }

    #[test]
    fn machines_sign_and_staff_needs_the_scope_for_money_alone() {
        let (key, bare) = (Scope::key(Roles::STAFF, false), Scope::signature(Roles::NONE));
        for needs in ALL {
            assert_eq!(key.allows(who(PrincipalKind::Staff), needs).is_ok(), needs != Needs::Admin);
            for kind in [PrincipalKind::Node, PrincipalKind::Gateway, PrincipalKind::Service] {
                assert_eq!(bare.allows(who(kind), needs), Ok(()));
            }
        }
    }

    #[test]
    fn a_request_without_a_scope_may_nothing_and_is_told_what_is_missing() {
        let mut request = Request::new(());
        assert_eq!(needs(&request, Needs::Party).unwrap_err().code(), tonic::Code::Unauthenticated);
        request.extensions_mut().insert(who(PrincipalKind::Account));
        let refused = needs(&request, Needs::Renter).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(refused.get_details_error_info().unwrap().reason, "KEY_SCOPE");
        assert!(refused.message().contains("renter") && refused.message().contains("CreateApiKey"));
        request.extensions_mut().insert(Scope::signature(Roles::RENTER));
        assert!(needs(&request, Needs::Renter).is_ok());
    }
}
