//! Quotas of namespaces, as operators set them and authors meet them.

use potluck_tests::fleet::{Fleet, failure, hello};

/// A job of 50 thousandths of a core a task in namespace `team`.
fn of_team(name: &str, replicas: u32) -> String {
    let text = hello(name, replicas, "potluck-hello", "potluck-hello");
    text.replacen("name =", "namespace = \"team\", name =", 1)
}

#[test]
fn a_namespace_is_held_to_its_quota() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let said = client
        .text(&["quota", "set", "team", "--tasks", "3"])
        .unwrap();
    assert!(said.contains("what runs is left alone"), "{said}");
    fleet.run("r1h1", &fleet.spec("first", &of_team("first", 2)));

    // Two that would fit one by one, not together: neither is submitted.
    let both = format!("{}{}", of_team("second", 1), of_team("third", 1));
    let both = fleet.spec("both", &both);
    let refused = failure(&client, &["run", &both]);
    assert!(
        refused.stderr.contains(
            "job team/third: the quota of namespace \"team\" has no room: \
             1 task asked for, 0 tasks left of 3 tasks"
        ),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("potluck quota list"),
        "{}",
        refused.stderr
    );
    let jobs = client.json(&["status"]).unwrap();
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");

    let second = fleet.spec("second", &of_team("second", 1));
    fleet.run("r1h1", &second);
    let list = client.json(&["quota", "list"]).unwrap();
    assert_eq!(list[0]["namespace"], "team", "{list}");
    assert_eq!(list[0]["asked"]["tasks"], 3, "{list}");
    assert_eq!(list[0]["quota"]["tasks"], 3, "{list}");
    let table = client.text(&["quota", "list"]).unwrap();
    assert!(table.contains("3 of 3"), "{table}");

    client.text(&["quota", "remove", "team"]).unwrap();
    fleet.run("r1h1", &fleet.spec("third", &of_team("third", 1)));
    let wrong = failure(&client, &["quota", "set", "No Team", "--jobs", "1"]);
    assert!(wrong.stderr.contains("only a-z"), "{}", wrong.stderr);
    let nothing = failure(&client, &["quota", "set", "team"]);
    assert!(nothing.stderr.contains("--tasks"), "{}", nothing.stderr);
}
