"""`secrets`: strong values for the secrets of an inventory, in a file that Ansible Vault encrypts."""

import os
import secrets as strong
from pathlib import Path
from typing import Any

import click

from manage.examples import example
from manage.output import say
from manage.session import not_empty

# The secrets that the roles need, and how each is made. Token-like values never need quoting.
_BYTES = 30
PASSWORDS = (
    "redis_password",
    "redis_admin_password",
    "redis_monitoring_password",
    "postgresql_application_password",
    "postgresql_worker_password",
    "postgresql_owner_password",
    "postgresql_replication_password",
    "flower_password",
    "admin_uis_password",
    "redis_admin_uis_password",
    "redis_application_password",
    "redis_sentinel_password",
    "redis_replication_password",
    "tls_ca_passphrase",
    "backup_passphrase",
)
ENCRYPTION_KEY = "application_credential_encryption_key"
# Secrets that `renew` may replace: a new value is in use everywhere after one run of site.yml. That does not hold for
# the key that encrypts stored passwords, and for the passphrases of the authority's key and of the backups.
_RENEWABLE = tuple(name for name in PASSWORDS if name not in ("tls_ca_passphrase", "backup_passphrase"))
_HEADER = "---\n# Made by ./manage.sh secrets init. Edit with ansible-vault edit; see with ansible-vault view.\n"


@click.group()
def secrets() -> None:
    """The secrets of an inventory."""


def _folder(context: click.Context, parameter: click.Parameter, value: str) -> Path:
    # An empty value, as of a shell variable that is not set, would mean the present folder.
    path = Path(not_empty(context, parameter, value))
    return path.parent if path.is_file() else path


_inventory = click.option(
    "-i",
    "--inventory",
    required=True,
    callback=_folder,
    help="A folder like inventories/production, or the file with its hosts.",
)
_password_file = click.option(
    "--vault-password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="ANSIBLE_VAULT_PASSWORD_FILE",
    help="The file with the password of the vault.  [default: ask for the password]",
)


@example("secrets init --inventory inventories/production")
@secrets.command()
@_inventory
@_password_file
def init(inventory: Path, vault_password_file: Path | None) -> None:
    """Write group_vars/all/secrets.yml, or add what is missing there. What is there is never changed."""
    file = _file(inventory)
    _check(inventory)
    vault = _vault(vault_password_file, is_new=not file.exists())
    present = _read(file, vault)
    missing = {name: value for name, value in generate().items() if not present.get(name)}
    if not missing:
        say(f"{file} holds all secrets already")
        return
    _write(file, vault.encrypt(_HEADER + _yaml({**present, **missing})))
    say(f"{file}: made {', '.join(missing)}")
    if ENCRYPTION_KEY in missing:
        say("Keep a copy of the file and of its password: without both, stored mail passwords cannot be read again.")
    if not vault_password_file:
        say("Run playbooks with --ask-vault-pass, or name a file in ANSIBLE_VAULT_PASSWORD_FILE.")


@example("secrets renew --inventory inventories/production redis_password")
@secrets.command()
@_inventory
@_password_file
@click.argument("names", nargs=-1, required=True, type=click.Choice(_RENEWABLE))
def renew(inventory: Path, vault_password_file: Path | None, names: tuple[str, ...]) -> None:
    """Give the named passwords new values. They are in use after the next run of site.yml."""
    from native.errors import StackError

    file = _file(inventory)
    _check(inventory)
    if not file.exists():
        raise StackError(f"there is no {file} yet: make it with ./manage.sh secrets init -i {inventory}")
    vault = _vault(vault_password_file, is_new=False)
    fresh = {name: strong.token_urlsafe(_BYTES) for name in names}
    _write(file, vault.encrypt(_HEADER + _yaml({**_read(file, vault), **fresh})))
    say(f"{file}: new values of {', '.join(fresh)}. Now run ansible-playbook -i {inventory} site.yml")


def generate() -> dict[str, str]:
    """A fresh value for each secret, by the name of its variable."""
    from cryptography.fernet import Fernet

    passwords = {name: strong.token_urlsafe(_BYTES) for name in PASSWORDS}
    return {**passwords, ENCRYPTION_KEY: Fernet.generate_key().decode()}


def _file(inventory: Path) -> Path:
    return inventory / "group_vars" / "all" / "secrets.yml"


def _check(inventory: Path) -> None:
    from native.errors import StackError

    if not inventory.is_dir():
        raise StackError(f"there is no inventory {inventory}: make the folder with its hosts.yml first")
    if inventory.resolve().name == "local":
        raise StackError("inventories/local has samples that everybody knows: copy the folder under another name")


def _vault(password_file: Path | None, *, is_new: bool) -> Any:
    from ansible.parsing.vault import VaultLib, VaultSecret

    from native.errors import StackError

    if password_file is None:
        password = click.prompt("Password of the vault", hide_input=True, confirmation_prompt=is_new, err=True)
    elif password_file.exists():
        password = _read_password(password_file)
    else:
        raise StackError(f"there is no {password_file}: write the password of the vault there, with mode 0600")
    if not password:
        raise StackError("the password of the vault is empty")
    return VaultLib([("default", VaultSecret(password.encode()))])


def _read_password(file: Path) -> str:
    from native.errors import StackError

    try:
        return file.read_text().strip()
    except UnicodeDecodeError:
        raise StackError(f"{file} is no text, so it cannot hold the password of the vault") from None
    except OSError as error:
        raise StackError(f"{file} cannot be read: {error.strerror}") from error


def _read(file: Path, vault: Any) -> dict[str, Any]:
    import yaml
    from ansible.errors import AnsibleError

    from native.errors import StackError

    if not file.exists():
        return {}
    text = file.read_bytes()
    if not vault.is_encrypted(text):
        raise StackError(f"{file} is not encrypted: encrypt it with ansible-vault encrypt {file}, then try again")
    try:
        content = yaml.safe_load(vault.decrypt(text))
    except AnsibleError as error:
        raise StackError(f"{file} cannot be decrypted with this password") from error
    return dict(content or {})


def _yaml(values: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(values, sort_keys=True, allow_unicode=True))


def _write(file: Path, content: bytes) -> None:
    """Write under another name first, so that an interrupted run leaves the old file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    fresh.replace(file)
