"""`secrets init` makes strong values once, adds what is missing, and changes nothing."""

from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from click.testing import CliRunner

from manage import secrets
from native.errors import StackError

PASSWORD = "of the vault: @#%"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    folder = tmp_path / "production"
    folder.mkdir()
    return folder


def run(inventory: Path, password: str = PASSWORD, command: tuple[str, ...] = ("init",)) -> None:
    file = inventory.parent / "password"
    file.write_text(f"{password}\n")
    arguments = [*command, "-i", str(inventory), "--vault-password-file", str(file)]
    result = CliRunner().invoke(secrets.secrets, arguments)
    if result.exception:
        raise result.exception


def vault() -> VaultLib:
    return VaultLib([("default", VaultSecret(PASSWORD.encode()))])


def written(inventory: Path) -> dict[str, str]:
    return yaml.safe_load(vault().decrypt((inventory / "group_vars/all/secrets.yml").read_bytes()))


def test_all_secrets_are_made_and_encrypted(inventory: Path) -> None:
    run(inventory)

    file = inventory / "group_vars/all/secrets.yml"
    assert set(written(inventory)) == {*secrets.PASSWORDS, secrets.ENCRYPTION_KEY}
    assert len(set(written(inventory).values())) == len(written(inventory))
    assert file.read_bytes().startswith(b"$ANSIBLE_VAULT;")
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_inventory_may_be_named_by_its_hosts_yml(inventory: Path) -> None:
    """As Ansible takes both, and both read the group_vars beside that file."""
    (inventory / "hosts.yml").write_text("redis: {hosts: {db: }}\n")
    run(inventory / "hosts.yml")
    before = written(inventory)

    run(inventory / "hosts.yml", command=("renew", "redis_password"))

    assert written(inventory).keys() == before.keys()
    assert {name for name, value in written(inventory).items() if value != before[name]} == {"redis_password"}


def test_what_is_there_stays_and_what_is_missing_is_added(inventory: Path) -> None:
    file = inventory / "group_vars/all/secrets.yml"
    file.parent.mkdir(parents=True)
    file.write_bytes(vault().encrypt("redis_password: mine\nother: thing\n"))

    run(inventory)

    assert written(inventory)["redis_password"] == "mine"
    assert written(inventory)["other"] == "thing"
    assert written(inventory)["flower_password"]


def test_a_second_run_changes_nothing(inventory: Path) -> None:
    run(inventory)
    before = (inventory / "group_vars/all/secrets.yml").read_bytes()

    run(inventory)

    assert (inventory / "group_vars/all/secrets.yml").read_bytes() == before


def test_another_password_is_refused(inventory: Path) -> None:
    run(inventory)

    with pytest.raises(StackError, match="cannot be decrypted"):
        run(inventory, "another")


def test_a_file_that_is_not_encrypted_is_refused(inventory: Path) -> None:
    file = inventory / "group_vars/all/secrets.yml"
    file.parent.mkdir(parents=True)
    file.write_text("redis_password: mine\n")

    with pytest.raises(StackError, match="ansible-vault encrypt"):
        run(inventory)
    assert file.read_text() == "redis_password: mine\n"


def test_the_samples_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()

    with pytest.raises(StackError, match="samples"):
        run(tmp_path / "local")


def test_a_renewed_password_is_another_and_the_rest_stays(inventory: Path) -> None:
    with pytest.raises(StackError, match="secrets init"):
        run(inventory, command=("renew", "redis_password"))
    run(inventory)
    before = written(inventory)

    run(inventory, command=("renew", "redis_password", "postgresql_worker_password"))

    after = written(inventory)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"redis_password", "postgresql_worker_password"}
    assert after.keys() == before.keys()


@pytest.mark.parametrize(
    "name", ["application_credential_encryption_key", "tls_ca_passphrase", "backup_passphrase", "unknown"]
)
def test_what_a_new_value_would_make_unreadable_is_not_renewed(inventory: Path, name: str) -> None:
    run(inventory)
    before = written(inventory)
    with pytest.raises(SystemExit):
        run(inventory, command=("renew", name))
    assert written(inventory) == before
