"""Is an artifact signed off? From the log, the policy, what it is about and the time alone."""

from __future__ import annotations

import datetime
from collections.abc import Sequence, Set
from dataclasses import dataclass

from pipeline.records import Decision, Question, Subject
from pipeline.release import signing
from pipeline.release.signoff.log import Entry
from pipeline.release.signoff.policy import Policy

Words = dict[
    tuple[str, str], Decision
]  # by who really signed, and the SHA-256 of the manifest that it is about


@dataclass(frozen=True)
class Case:
    """What is to be signed off: `failing` are the checks that did not pass, by name, with their
    status. `authors` wrote the recipe, as git says; in a bundle alone nobody knows, and the
    statements' word must do."""

    subject: Subject
    verdict: str
    failing: dict[str, str]
    authors: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Standing:
    """`words` for people; `reasons` why it is not approved, empty if it is. `until` is when that
    ends."""

    words: str
    reasons: list[str]
    until: datetime.datetime | None = None

    @property
    def approved(self) -> bool:
        return not self.reasons


def standing(
    entries: list[Entry],
    policy: Policy,
    case: Case,
    now: datetime.datetime,
    heard: Sequence[Entry] = (),
) -> Standing:
    """`heard` is a log from elsewhere, of which the rejections count alone.

    Raises Tampered for an entry that is signed with a key of the policy and does not hold.
    """
    last, strangers = _last_words(entries, policy, now)
    elsewhere, _ = _last_words(heard, policy, now)
    rejections = list(
        dict.fromkeys(_rejections(last, case.subject) + _rejections(elsewhere, case.subject))
    )
    approvals = []
    reasons = rejections + strangers
    for by, decision in _about(last, case.subject).items():
        if decision.action == "approve":
            void = _void(decision, policy, case.subject, now)
            if void:
                reasons.append(f"the approval of {by} does not count: {void}")
            else:
                approvals.append(decision)
    authors = case.authors | _said_authors([decision for decision, _ in entries], case.subject)
    missing = _missing(approvals, policy, authors) + _unwaived(approvals, case, policy, now)
    if rejections or missing:
        return Standing("not signed off", reasons + missing)
    return _signed_off(approvals, case)


def _last_words(
    entries: Sequence[Entry], policy: Policy, now: datetime.datetime
) -> tuple[Words, list[str]]:
    """Everybody's latest decision about each artifact; and why others do not count."""
    known, ever = policy.keys(policy.approvers, now), policy.keys(policy.approvers, None)
    last: Words = {}
    strangers = []
    for decision, opened in entries:
        if decision.action == "request":
            continue
        alive = ever if decision.action == "reject" else known  # no rejection goes away by itself
        if not set(opened.by) & {key.keyid for key in alive.values()}:
            strangers.append(
                f"the word of {decision.by} does not count: its key is none that the policy names,"
                " or one that has ended"
            )
            continue
        by = signing.signed_by(
            opened, alive, f"sign-off of {decision.subject.recipe}/{decision.subject.variant}"
        )
        role = policy.approvers[by].role
        if decision.action == "reject" or (by, role) == (decision.by, decision.role):
            last[by, decision.subject.manifest_sha256] = decision
        else:
            strangers.append(
                f"an approval does not count: a sign-off says it is by {decision.by}"
                f" ({decision.role}); the key is that of {by} ({role}). If the policy was"
                f" corrected, let {by} approve again"
            )
    return last, strangers


def _said_authors(decisions: list[Decision], subject: Subject) -> set[str]:
    """Whom any entry names an author, and all who asked for this artifact."""
    named = {author for decision in decisions for author in decision.authors}
    return named | {
        decision.by.lower()
        for decision in decisions
        if (decision.action, decision.subject) == ("request", subject)
    }


def _about(last: Words, subject: Subject) -> dict[str, Decision]:
    """Everybody's word about this artifact; of who has said none, the last about another, which
    tells why it does not count."""
    others = {by: decision for (by, _), decision in last.items()}
    return others | {
        by: decision
        for (by, manifest), decision in last.items()
        if manifest == subject.manifest_sha256
    }


def _rejections(last: Words, subject: Subject) -> list[str]:
    """A rejection holds for the same artifact, however often it is measured again."""
    return [
        f"rejected by {by}: {decision.reason}"
        for (by, manifest), decision in last.items()
        if decision.action == "reject" and manifest == subject.manifest_sha256
    ]


def _signed_off(approvals: list[Decision], case: Case) -> Standing:
    waived = [
        waiver.until
        for decision in approvals
        for waiver in decision.waivers
        if waiver.check in case.failing
    ]
    until = min([decision.until for decision in approvals if decision.until] + waived)
    status = (
        f"{case.verdict}, waived until {min(waived):%Y-%m-%d} ({', '.join(case.failing)})"
        if waived
        else case.verdict
    )
    people = ", ".join(f"{decision.by} ({decision.role})" for decision in approvals)
    return Standing(f"{status}; approved by {people} until {until:%Y-%m-%d %H:%M} UTC", [], until)


def _void(decision: Decision, policy: Policy, subject: Subject, now: datetime.datetime) -> str:
    """Why an approval does not count; empty if it does."""
    ours, theirs, at = subject.evidence, decision.subject.evidence, decision.at
    changed = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    about = (decision.subject.recipe, decision.subject.variant)
    until = decision.until or at  # one without an end ended at once
    longest, longest_waiver = (
        datetime.timedelta(days=days) for days in (policy.valid_days, policy.waiver_days)
    )
    wrong = {
        f"it is of {'/'.join(about)}": about != (subject.recipe, subject.variant),
        f"it is of other records: {', '.join(changed)} changed since": bool(changed),
        "it is of another manifest": decision.subject.manifest_sha256 != subject.manifest_sha256,
        f"it ended {until:%Y-%m-%d %H:%M} UTC": until <= now,
        f"it is dated {at:%Y-%m-%d %H:%M} UTC, which is not yet": at > now,
        f"it would hold longer than the policy's {policy.valid_days} days": until > at + longest,
        f"a waiver in it would hold longer than the policy's {policy.waiver_days} days": any(
            waiver.until > at + longest_waiver for waiver in decision.waivers
        ),
    }
    return next((words for words, holds in wrong.items() if holds), "")


def _missing(approvals: list[Decision], policy: Policy, authors: Set[str]) -> list[str]:
    missing = []
    if len(approvals) < policy.approvals:
        missing.append(f"{len(approvals)} of {policy.approvals} approvals")
    absent = [
        role for role in policy.roles if role not in {decision.role for decision in approvals}
    ]
    missing += [f"nobody approved as {role}" for role in absent]
    if (
        approvals
        and not policy.author_alone
        and all(decision.by.lower() in authors for decision in approvals)
    ):
        missing.append(
            "approved by its author, or who asked, alone"
            f" ({', '.join(decision.by for decision in approvals)})"
        )
    return missing


def _unwaived(
    approvals: list[Decision], case: Case, policy: Policy, now: datetime.datetime
) -> list[str]:
    waivers = [waiver for decision in approvals for waiver in decision.waivers]
    alive = {
        waiver.check
        for waiver in waivers
        if waiver.until > now and not unwaivable(waiver.check, policy)
    }
    ended = {waiver.check for waiver in waivers if waiver.until <= now}
    return [
        f"{check}: {status}, {'its waiver ended' if check in ended else 'and not waived'}"
        for check, status in case.failing.items()
        if check not in alive
    ]


def unwaivable(check: str, policy: Policy) -> str:
    """Why the policy lets nobody waive a check; empty if it may be."""
    kind = Question.named(check).kind
    return (
        ""
        if kind in policy.waivable
        else (
            f"{kind or check} may not be waived; the policy allows"
            f" {', '.join(policy.waivable) or 'none'}"
        )
    )
