"""What `quantgate signoff` does: key, request, approve, reject, show, verify."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from pipeline import paths
from pipeline.errors import ArtifactError, Rejected, SignoffError
from pipeline.evidence import opened, revision, seals
from pipeline.evidence.candidate import Candidate
from pipeline.records import Action, Decision, Question, Subject, Waiver, artifact
from pipeline.release import signing
from pipeline.release.signoff import case as cases
from pipeline.release.signoff import log, policy
from pipeline.release.signoff import remeasure as again
from pipeline.release.signoff.policy import Policy
from pipeline.release.signoff.standing import Case, Standing, standing, unwaivable


def make_key(path: Path, name: str, role: str) -> None:
    """Makes a person's key and prints their line of the policy. Raises SignoffError."""
    section = policy.section(name, role)
    line = policy.line(name, role, signing.make_key(path))
    print(
        f"{path}: keep it to yourself. For {policy.PATH}, below `{section}:`, indented as it is:\n"
    )
    print(line)


def request(name: str, variant_name: str, by: str | None) -> None:
    """Asks for a sign-off of the artifact as it is now. Raises SignoffError for what nobody may
    sign off."""
    asking = by or revision.user()
    if asking is None:
        raise SignoffError(
            "nobody asks: git knows no user.email here. Say who you are with --by EMAIL."
        )
    if not policy.EMAIL.fullmatch(asking):
        raise SignoffError(
            f"--by: found {asking!r}, expected an e-mail address: who asks may not be the only one"
            " to approve."
        )
    case = cases.of(opened.candidate(name, variant_name))
    decision, entries = _decision("request", case, asking), log.read(name, variant_name)
    if entries and _asks_the_same(entries[-1][0], decision):
        print(f"{name}/{variant_name}: already requested by {asking}; nothing was written")
        return
    log.append(
        decision.model_copy(
            update={"authors": sorted({*revision.authors(paths.recipe(name)), asking.lower()})}
        ),
        None,
        {},
    )
    print(f"{name}/{variant_name}: sign-off requested by {asking}; {_verdict(case)}")
    print(
        f"commit {log.path(name, variant_name)}, and have it approved: quantgate signoff approve"
        f" {name} {variant_name} --key KEY"
    )


def approve(
    name: str,
    variant_name: str,
    key: str,
    waive: Sequence[str],
    reason: str,
    until: datetime.date | None,
    remeasure: float | None = None,
) -> None:
    """Raises SignoffError unless the policy lets the key's holder approve this as it is, Rejected
    if that is not enough.

    `remeasure` is the share of the evaluation that is measured again here first.
    """
    rules, at = _policy(), _now()
    if remeasure is not None and not 0 < remeasure <= 1:
        raise SignoffError(
            f"--remeasure: found {remeasure}, expected a share of the evaluation: above 0, at"
            " most 1."
        )
    if until and not waive:
        raise SignoffError(
            "--until is the end of a waiver and needs --waive CHECK; how long an approval holds"
            " says the policy (valid_days)."
        )
    known = rules.holders("approvers", at)
    by, signer = signing.signer(key, known)
    candidate = opened.candidate(name, variant_name)
    case = _case(candidate, rules)
    _require_request(case)
    waivers = _waivers(case, rules, waive, reason, until, at)
    _require_waived(case, waivers)
    remeasured = again.remeasure(candidate, remeasure) if remeasure is not None else None
    decision = _decision("approve", case, by).model_copy(
        update={
            "role": rules.approvers[by].role,
            "until": at + datetime.timedelta(days=rules.valid_days),
            "reason": reason,
            "waivers": waivers,
            "remeasured": remeasured,
            "authors": sorted(case.authors),
        }
    )
    log.append(decision, signer, known)
    outcome = standing(log.read(name, variant_name), rules, case, _now())
    if not outcome.approved:
        raise Rejected(
            f"{name}/{variant_name}: your approval is in the log, and is not enough:"
            f" {outcome.words}: {'; '.join(outcome.reasons)}"
        )
    _say(str(case.subject), outcome)


def _require_waived(case: Case, waivers: list[Waiver]) -> None:
    open_checks = [
        check for check in case.failing if check not in {waiver.check for waiver in waivers}
    ]
    if open_checks:
        listing = "\n  ".join(f"{check}: {case.failing[check]}" for check in open_checks)
        raise SignoffError(
            f"{case.subject}: {case.verdict}, so there is nothing to approve unless each of"
            f" these is waived (--waive CHECK --reason WHY --until DATE):\n  {listing}"
        )


def reject(
    name: str, variant_name: str, key: str, reason: str, manifest: str | None = None
) -> None:
    """Holds until the same person approves the same artifact; so an approval is taken back.

    Needs the key, the policy and the log alone: neither the artifact nor its records, whatever
    state the project is in. `manifest`: first digits of the SHA-256 of a manifest, as the log has
    it; default the artifact that lies here if the log knows it, else the last one that the log is
    about. Raises SignoffError."""
    rules = policy.load()
    known = rules.holders("approvers", _now())
    by, signer = signing.signer(key, known)
    case = _meant(name, variant_name, manifest)
    decision = _decision("reject", case, by)
    log.append(
        decision.model_copy(update={"role": rules.approvers[by].role, "reason": reason}),
        signer,
        known,
    )
    rejected = case.subject.manifest_sha256
    print(f"{name}/{variant_name}: manifest {rejected[:12]} rejected by {by}: {reason}")
    print(
        f"commit and push {log.path(name, variant_name)}: who verifies or serves in a clone hears"
        " it by git pull"
    )
    others = {
        earlier.subject.manifest_sha256[:12]
        for earlier, _ in log.read(name, variant_name)
        if earlier.action == "approve"
    }
    for other in sorted(others - {rejected[:12]}):
        print(
            f"not rejected by this: manifest {other}, which somebody approved (--manifest {other})"
        )


def _meant(name: str, variant_name: str, manifest: str | None) -> Case:
    """What to reject, which may since have been made anew, or be gone."""
    decided = [decision for decision, _ in log.read(name, variant_name)]
    by_manifest = {decision.subject.manifest_sha256: decision for decision in decided}
    if manifest is not None:
        meant = [sha256 for sha256 in by_manifest if sha256.startswith(manifest)]
        if len(meant) != 1:
            known = ", ".join(sha256[:12] for sha256 in by_manifest) or "none"
            raise SignoffError(
                f"--manifest {manifest}: {len(meant)} artifacts of that manifest in the log. It"
                f" has: {known}."
            )
        return Case(by_manifest[meant[0]].subject, by_manifest[meant[0]].verdict, {})
    here = _here(name, variant_name)
    if decided:
        last = by_manifest.get(here or "", decided[-1])
        return Case(last.subject, last.verdict, {})
    if here is None:
        raise SignoffError(
            f"{name}/{variant_name}: nothing to reject: no artifact lies here, and the log is of"
            " none."
        )
    return Case(
        Subject(recipe=name, variant=variant_name, manifest_sha256=here, evidence={}), "", {}
    )


def _here(name: str, variant_name: str) -> str | None:
    """Of the artifact that lies here; None if there is none that can be read."""
    try:
        return seals.content(paths.manifest(name, variant_name))
    except ArtifactError:
        return None


def show(name: str, variant_name: str) -> None:
    """Prints the log, and what follows from it now."""
    for decision, _ in log.read(name, variant_name):
        until = f" until {decision.until:%Y-%m-%d}" if decision.until else ""
        role = f" ({decision.role})" if decision.role else ""
        print(
            f"{decision.at:%Y-%m-%d %H:%M} UTC  {decision.action}{until}  {decision.by}{role} "
            f" {decision.verdict}  manifest {decision.subject.manifest_sha256[:12]} "
            f" {decision.reason}".rstrip()
        )
        if (remeasured := decision.remeasured) is not None:
            print(
                f"    measured again: {remeasured.windows} windows, {remeasured.items} items"
                f" ({remeasured.changed_items} with another score), differences at most"
                f" {max(remeasured.of_noise.values()):.0%} of what noise explains"
            )
        for waiver in decision.waivers:
            print(f"    waives {waiver.check} until {waiver.until:%Y-%m-%d}: {waiver.reason}")
    _say(f"{name}/{variant_name}", current(name, variant_name))


def verify(name: str, variant_name: str) -> Standing:
    """Raises Rejected unless the artifact as it lies here is signed off now, Tampered if the log
    was tampered with."""
    outcome = current(name, variant_name)
    if not outcome.approved:
        raise Rejected(f"{name}/{variant_name}: {outcome.words}: {'; '.join(outcome.reasons)}")
    _say(f"{name}/{variant_name}", outcome)
    return outcome


def current(name: str, variant_name: str) -> Standing:
    rules = _policy()
    case = _case(opened.candidate(name, variant_name), rules)
    return standing(log.read(name, variant_name), rules, case, _now())


def _case(candidate: Candidate, rules: Policy) -> Case:
    authors = cases.authors(candidate.name, rules)
    return dataclasses.replace(cases.of(candidate), authors=authors)


def _say(what: str, outcome: Standing) -> None:
    print(f"{what}: {outcome.words}")
    for reason in outcome.reasons:
        print(f"  {reason}")


def _verdict(case: Case) -> str:
    return case.verdict + (f" ({', '.join(case.failing)})" if case.failing else "")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _policy() -> Policy:
    rules = policy.load()
    if not revision.is_committed(policy.PATH):
        raise SignoffError(
            f"{policy.PATH}: not in the git commit as it is, so nobody could check by which rules."
            " Commit it."
        )
    return rules


def _decision(action: Action, case: Case, by: str) -> Decision:
    where = log.path(case.subject.recipe, case.subject.variant)
    return Decision(
        action=action,
        subject=case.subject,
        by=by,
        at=_now(),
        verdict=case.verdict,
        authors=[],
        commit=revision.head(),
        policy_sha256=artifact.hash_file(policy.PATH, "policy").sha256,
        previous=log.last(log.content(where)),
    )


def _asks_the_same(last: Decision, decision: Decision) -> bool:
    return (last.action, last.subject, last.by) == (
        decision.action,
        decision.subject,
        decision.by,
    )


def _require_request(case: Case) -> None:
    about = case.subject
    asked = [
        decision.subject
        for decision, _ in log.read(about.recipe, about.variant)
        if decision.action == "request"
    ]
    if about not in asked:
        raise SignoffError(
            f"{about}: no sign-off was requested of the artifact as it is"
            f" now{' (it changed since)' if asked else ''}. Run: quantgate signoff request"
            f" {about.recipe} {about.variant}"
        )


def _waivers(
    case: Case,
    rules: Policy,
    waive: Sequence[str],
    reason: str,
    until: datetime.date | None,
    at: datetime.datetime,
) -> list[Waiver]:
    """A waiver for each failing check that is named, whole or by its first word. Raises
    SignoffError."""
    if waive and not (reason and until):
        raise SignoffError("--waive needs --reason WHY and --until YYYY-MM-DD.")
    checks = []
    for word in waive:
        meant = [check for check in case.failing if word in (check, Question.named(check).kind)]
        if not meant:
            raise SignoffError(
                f"--waive {word!r}: no check of that name failed. Failed:"
                f" {', '.join(case.failing) or 'none'}."
            )
        checks += meant
    end = datetime.datetime.combine(until, datetime.time.max, datetime.UTC) if until else at
    for check in checks:
        if forbidden := unwaivable(check, rules):
            raise SignoffError(f"--waive {check!r}: {forbidden} (signoff/policy.yaml: waivable).")
        if not at < end <= at + datetime.timedelta(days=rules.waiver_days):
            raise SignoffError(
                f"--until {until}: found a date that is past, or more than {rules.waiver_days} days"
                " from now (waiver_days)."
            )
    return [Waiver(check=check, reason=reason, until=end) for check in dict.fromkeys(checks)]
