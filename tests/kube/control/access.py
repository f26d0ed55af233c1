"""Who may do what: tokens, and the rules of role-based access control."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import NamedTuple

from tests.kube.control.objects import Object, Refused
from tests.kube.control.store import Resource, Store


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...]


class Attempt(NamedTuple):
    """What somebody wants to do."""

    verb: str
    group: str
    resource: str
    subresource: str | None
    namespace: str | None
    name: str | None

    @property
    def path(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def denied(self, user: User) -> Refused:
        """The error, in the words of a real API server."""
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f'{what} "{self.name}"' if self.name else what
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        action = f'cannot {self.verb} resource "{self.path}" in API group "{self.group}" {where}'
        details = {"name": self.name, "group": self.group, "kind": self.resource}
        return Refused(403, "Forbidden", f'{named} is forbidden: User "{user.name}" {action}', details)


class Access:
    """Administrators may do all, but for what a test forbids; others what a role that is bound to them allows."""

    def __init__(self, store: Store, admin_token: str) -> None:
        self._store = store
        self._users = {admin_token: User("admin", ("system:masters", "system:authenticated"))}
        #: (verb, resource, namespace or None for all) that nobody may
        self.forbidden: set[tuple[str, str, str | None]] = set()

    def user_of(self, authorization: str) -> User:
        user = self._users.get(authorization.removeprefix("Bearer ").strip())
        if user is None:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return user

    def token_of(self, account: Object) -> str:
        """A new token of a service account."""
        name, namespace = account["metadata"]["name"], account["metadata"]["namespace"]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        token = secrets.token_urlsafe(32)
        self._users[token] = User(f"system:serviceaccount:{namespace}:{name}", groups)
        return token

    def check(self, user: User, attempt: Attempt) -> None:
        if not self.allows(user, attempt):
            raise attempt.denied(user)

    def allows(self, user: User, attempt: Attempt) -> bool:
        if self._is_forbidden(attempt):
            return False
        if "system:masters" in user.groups or attempt.resource == "selfsubjectaccessreviews":
            return True
        return any(_allow(rule, attempt) for rule in self._rules(user, attempt.namespace))

    def _is_forbidden(self, attempt: Attempt) -> bool:
        return any(
            verb in ("*", attempt.verb) and resource == attempt.path and namespace in (None, attempt.namespace)
            for verb, resource, namespace in self.forbidden
        )

    def _rules(self, user: User, namespace: str | None) -> list[Object]:
        bindings = list(self._store.of("clusterrolebindings").objects.values())
        if namespace:
            bindings += self._store.of("rolebindings").inside(namespace)
        rules: list[Object] = []
        for binding in bindings:
            if any(_is(user, subject, namespace) for subject in binding.get("subjects") or []):
                rules += self._role_rules(binding)
        return rules

    def _role_rules(self, binding: Object) -> list[Object]:
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        if (kind, name) == ("ClusterRole", "cluster-admin"):
            return [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        roles: Resource = self._store.of("clusterroles" if kind == "ClusterRole" else "roles")
        role = roles.objects.get((binding["metadata"].get("namespace") if roles.namespaced else None, name), {})
        return role.get("rules") or []


def _is(user: User, subject: Object, namespace: str | None) -> bool:
    match subject["kind"]:
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace', namespace)}:{subject['name']}"
        case "Group":
            return subject["name"] in user.groups
        case _:
            return bool(user.name == subject["name"])


def _allow(rule: Object, attempt: Attempt) -> bool:
    def has(key: str, *values: str) -> bool:
        return bool({"*", *values} & set(rule.get(key) or []))

    named = rule.get("resourceNames")
    return (
        has("verbs", attempt.verb)
        and has("apiGroups", attempt.group)
        and has("resources", attempt.path, *([f"*/{attempt.subresource}"] if attempt.subresource else []))
        and (not named or attempt.name in named)
    )
