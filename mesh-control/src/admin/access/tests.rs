use super::*;
use mesh_proto::resource::{SourceDocument, parse, split_documents};

const OWNER: u32 = 4000;
const ALICE: u32 = 4001;

fn actor(uid: u32) -> Actor {
    Actor::Local(LocalUser { user: UnixCaller { uid, pid: None }, name: None, owner: OWNER })
}

fn resources(yaml: &str) -> Vec<Resource> {
    let read = |document: SourceDocument| parse(&document).unwrap_or_else(|problems| panic!("{problems:?}"));
    split_documents("t", yaml).into_iter().map(read).collect()
}

fn bound(role: &str) -> Catalog {
    let yaml = format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: Role\nmetadata: {{name: x}}\nspec: {{admin: {role}}}\n---\n\
         apiVersion: meshctl.io/v1alpha1\nkind: RoleBinding\nmetadata: {{name: y}}\nspec: {{role: x, subjects: [{{uid: {ALICE}}}]}}\n"
    );
    Catalog::from_resources(resources(&yaml))
}

#[test]
fn each_role_opens_its_own_door_and_everybody_with_one_may_look() {
    use AdminAction::{Author, Certify, Operate, View};
    let all = [View, Operate, Author, Certify];
    let cases: [(&str, &[AdminAction]); 4] = [
        ("viewer", &[View]),
        ("operator", &[View, Operate]),
        ("policy-author", &[View, Author]),
        ("ca-admin", &[View, Certify]),
    ];
    for (role, may) in cases {
        for action in all {
            let allowed = actor(ALICE).require(&bound(role), action).is_ok();
            assert_eq!(allowed, may.contains(&action), "{role} {action:?}");
        }
    }
    for action in all {
        assert!(actor(OWNER).require(&Catalog::default(), action).is_ok());
        assert!(actor(0).require(&Catalog::default(), action).is_ok(), "root");
        assert!(actor(4002).require(&bound("viewer"), action).is_err(), "another uid");
    }
}

#[test]
fn a_refusal_says_which_role_is_missing_and_the_documents_that_grant_it_are_valid() {
    let status = actor(ALICE).require(&bound("viewer"), AdminAction::Author).unwrap_err();
    let text = status.message();
    assert!(text.contains("policy-author") && text.contains("it holds viewer"), "{text}");
    let yaml = text.split("<<'END'\n").nth(1).and_then(|rest| rest.strip_suffix("END")).expect("documents");
    let granted = Catalog::from_resources(resources(yaml));
    assert!(actor(ALICE).require(&granted, AdminAction::Author).is_ok(), "{yaml}");
}

#[test]
fn what_makes_one_somebody_else_is_for_the_owner_alone() {
    let shared = "apiVersion: meshctl.io/v1alpha1\nmetadata: {name: mesh}\n";
    let cases = [
        ("kind: MeshConfig\nspec: {}\n", true),
        ("kind: Role\nspec: {admin: viewer}\n", true),
        ("kind: RoleBinding\nspec: {role: r, subjects: [{uid: 4001}]}\n", true),
        ("kind: Workload\nspec: {attestation: {unix: {uid: 4001}}}\n", true),
        ("kind: Role\nspec: {operations: [{methods: [GET]}]}\n", false),
        ("kind: RoleBinding\nspec: {role: r, subjects: [{serviceAccount: default/web}]}\n", false),
        ("kind: AccessPolicy\nspec: {target: {service: web}, rules: [{from: [{anyMeshed: true}]}]}\n", false),
        ("kind: Service\nspec: {ports: [{port: 80}], selector: {workload: web}}\n", false),
    ];
    for (yaml, is_owners) in cases {
        for resource in resources(&format!("{shared}{yaml}")) {
            assert_eq!(is_owners_alone(&resource).is_some(), is_owners, "{yaml}");
        }
    }
    assert!(actor(OWNER).require_owner("x").is_ok());
    let text = actor(ALICE).require_owner("bind users").unwrap_err().message().to_owned();
    assert!(text.contains("uid 4001 may not bind users") && text.contains("uid 4000"), "{text}");
}

#[test]
fn the_clusters_roles_decide_for_its_users() {
    use AdminAction::{Author, Certify, Operate, View};
    let user = |may: &[AdminAction]| {
        Actor::Cluster(ClusterUser { name: "alice@example".to_owned(), may: may.iter().copied().collect() })
    };
    for action in [View, Operate, Author, Certify] {
        assert!(user(&[action]).require(&Catalog::default(), action).is_ok(), "{action:?}");
        let refused = user(&[]).require(&bound("ca-admin"), action).unwrap_err();
        assert!(refused.message().contains("kubectl create clusterrolebinding"), "{refused:?}");
    }
    let all = user(&[View, Operate, Author, Certify]);
    assert!(!all.is_owner() && all.require_owner("make join tokens").is_err());
    assert_eq!(all.to_string(), "user alice@example");
}
