"""What `quantgate signoff` does: request, approve, reject, show, verify."""

from __future__ import annotations

import datetime

from pipeline import artifact, paths, revision, signing
from pipeline.errors import Rejected, SignoffError
from pipeline.records import Action, Decision, Waiver
from pipeline.signoff import case as cases
from pipeline.signoff import log, policy
from pipeline.signoff.policy import Policy
from pipeline.signoff.standing import Case, Standing, standing, unwaivable


def request(name: str, variant_name: str, by: str | None) -> None:
    """Asks for a sign-off of the artifact as it is now. Raises SignoffError for what nobody may sign off."""
    asking = by or revision.user()
    if asking is None:
        raise SignoffError("nobody asks: git knows no user.email here. Say who you are with --by EMAIL.")
    case = cases.of(name, variant_name)
    log.append(_decision("request", name, case, asking), None)
    print(f"{name}/{variant_name}: sign-off requested by {asking}; {_verdict(case)}")
    print(f"commit {log.path(name, variant_name)}, and have it approved: quantgate signoff approve {name} {variant_name} --key KEY")


def approve(name: str, variant_name: str, key: str, waive: list[str], reason: str, until: datetime.date | None) -> None:
    """Raises SignoffError unless the policy lets the key's holder approve this as it is."""
    rules, at = _policy(), _now()
    if until and not waive:
        raise SignoffError(
            "--until is the end of a waiver and needs --waive CHECK; how long an approval holds says the policy (valid_days)."
        )
    case = cases.of(name, variant_name)
    by, signer = signing.signer(key, rules.keys(rules.approvers, at))
    _require_request(name, variant_name, case)
    waivers = _waivers(case, rules, waive, reason, until, at)
    decision = _decision("approve", name, case, by).model_copy(
        update={
            "role": rules.approvers[by].role,
            "until": at + datetime.timedelta(days=rules.valid_days),
            "reason": reason,
            "waivers": waivers,
        }
    )
    open_checks = [check for check in case.failing if check not in {waiver.check for waiver in waivers}]
    if open_checks:
        listing = "\n  ".join(f"{check}: {case.failing[check]}" for check in open_checks)
        raise SignoffError(
            f"{name}/{variant_name}: {case.verdict}, so there is nothing to approve unless each of these is waived "
            f"(--waive CHECK --reason WHY --until DATE):\n  {listing}"
        )
    log.append(decision, signer)
    _say(name, variant_name, standing(log.read(name, variant_name), rules, case, _now()))


def reject(name: str, variant_name: str, key: str, reason: str, manifest: str | None = None) -> None:
    """Holds until the same person approves the same artifact; so an approval is taken back. Raises SignoffError.

    `manifest`: first digits of the SHA-256 of an earlier artifact's manifest, as the log has it; default the artifact as it is now.
    """
    rules = _policy()
    case = _earlier(name, variant_name, manifest) if manifest else cases.of(name, variant_name)
    by, signer = signing.signer(key, rules.keys(rules.approvers, _now()))
    decision = _decision("reject", name, case, by)
    log.append(decision.model_copy(update={"role": rules.approvers[by].role, "reason": reason}), signer)
    _say(name, variant_name, standing(log.read(name, variant_name), rules, case, _now()))


def _earlier(name: str, variant_name: str, manifest: str) -> Case:
    """What the log's last word about an artifact was said of, which may since have been made anew."""
    decided = [decision for decision, _ in log.read(name, variant_name)]
    found = {decision.subject.manifest_sha256: decision for decision in decided}
    meant = [sha256 for sha256 in found if sha256.startswith(manifest)]
    if len(meant) != 1:
        known = ", ".join(sha256[:12] for sha256 in found) or "none"
        raise SignoffError(f"--manifest {manifest}: {len(meant)} artifacts of that manifest in the log. It has: {known}.")
    return Case(found[meant[0]].subject, found[meant[0]].verdict, {})


def show(name: str, variant_name: str) -> None:
    """Prints the log, and what follows from it now."""
    for decision, _ in log.read(name, variant_name):
        until = f" until {decision.until:%Y-%m-%d}" if decision.until else ""
        role = f" ({decision.role})" if decision.role else ""
        print(f"{decision.at:%Y-%m-%d %H:%M} UTC  {decision.action}{until}  {decision.by}{role}  {decision.verdict}  "
              f"manifest {decision.subject.manifest_sha256[:12]}  {decision.reason}".rstrip())  # fmt: skip
        for waiver in decision.waivers:
            print(f"    waives {waiver.check} until {waiver.until:%Y-%m-%d}: {waiver.reason}")
    _say(name, variant_name, current(name, variant_name))


def verify(name: str, variant_name: str) -> Standing:
    """Raises Rejected unless the artifact as it lies here is signed off now, Tampered if the log was tampered with."""
    found = current(name, variant_name)
    if not found.approved:
        raise Rejected(f"{name}/{variant_name}: {found.words}: {'; '.join(found.reasons)}")
    _say(name, variant_name, found)
    return found


def current(name: str, variant_name: str) -> Standing:
    return standing(log.read(name, variant_name), _policy(), cases.of(name, variant_name), _now())


def _say(name: str, variant_name: str, found: Standing) -> None:
    print(f"{name}/{variant_name}: {found.words}")
    for reason in found.reasons:
        print(f"  {reason}")


def _verdict(case: Case) -> str:
    return case.verdict + (f" ({', '.join(case.failing)})" if case.failing else "")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _policy() -> Policy:
    if not revision.is_committed(policy.PATH):
        raise SignoffError(f"{policy.PATH}: not in the git commit as it is, so nobody could check by which rules. Commit it.")
    return policy.load()


def _decision(action: Action, name: str, case: Case, by: str) -> Decision:
    entries = log.read(name, case.subject.variant)
    asked = [decision.by for decision, _ in entries if decision.action == "request" and decision.subject == case.subject]
    authors = {*revision.authors(paths.recipe(name)), *(who.lower() for who in [*asked, *([by] if action == "request" else [])])}
    where = log.path(name, case.subject.variant)
    return Decision(
        action=action,
        subject=case.subject,
        by=by,
        at=_now(),
        verdict=case.verdict,
        authors=sorted(authors),
        commit=revision.now().commit,
        policy_sha256=artifact.hash_file(policy.PATH, "policy").sha256,
        previous=log.last(where.read_text()) if where.is_file() else "",
    )


def _require_request(name: str, variant_name: str, case: Case) -> None:
    asked = [decision.subject for decision, _ in log.read(name, variant_name) if decision.action == "request"]
    if case.subject not in asked:
        raise SignoffError(
            f"{name}/{variant_name}: no sign-off was requested of the artifact as it is now"
            f"{' (it changed since)' if asked else ''}. Run: quantgate signoff request {name} {variant_name}"
        )


def _waivers(
    case: Case, rules: Policy, waive: list[str], reason: str, until: datetime.date | None, at: datetime.datetime
) -> list[Waiver]:
    """A waiver for each failing check that is named, whole or by its first word. Raises SignoffError."""
    if waive and not (reason and until):
        raise SignoffError("--waive needs --reason WHY and --until YYYY-MM-DD.")
    found = []
    for word in waive:
        meant = [check for check in case.failing if word in (check, check.split(" ")[0])]
        if not meant:
            raise SignoffError(f"--waive {word!r}: no check of that name failed. Failed: {', '.join(case.failing) or 'none'}.")
        found += meant
    end = datetime.datetime.combine(until, datetime.time.max, datetime.UTC) if until else at
    for check in found:
        if forbidden := unwaivable(check, rules):
            raise SignoffError(f"--waive {check!r}: {forbidden} (signoff/policy.yaml: waivable).")
        if not at < end <= at + datetime.timedelta(days=rules.waiver_days):
            raise SignoffError(
                f"--until {until}: found a date that is past, or more than {rules.waiver_days} days from now (waiver_days)."
            )
    return [Waiver(check=check, reason=reason, until=end) for check in dict.fromkeys(found)]
