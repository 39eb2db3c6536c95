"""The configuration of Alertmanager, from monitoring/alertmanager.yml."""

import yaml


def alertmanager_configuration(text, mail, webhook):
    """The configuration `text`, as a dictionary, with `mail` and `webhook`; a receiver with no address is left out.

    `mail` has the keys to, from, server (HOST:PORT), user and password_file; user is empty for a server that asks for
    no login. `webhook` has url and token_file; token_file is empty where no token is sent.
    """
    configuration = yaml.safe_load(text)
    (receiver,) = configuration["receivers"]
    configuration["global"] = _smtp(mail) if mail["to"] else {}
    if mail["to"]:
        receiver["email_configs"][0]["to"] = mail["to"]
    else:
        del receiver["email_configs"]
    if webhook["url"]:
        _address(receiver["webhook_configs"][0], webhook)
    else:
        del receiver["webhook_configs"]
    return configuration


def _smtp(mail):
    login = {"smtp_auth_username": mail["user"], "smtp_auth_password_file": mail["password_file"]}
    return {"smtp_smarthost": mail["server"], "smtp_from": mail["from"], **(login if mail["user"] else {})}


def _address(receiver, webhook):
    receiver["url"] = webhook["url"]
    if webhook["token_file"]:
        receiver["http_config"]["authorization"]["credentials_file"] = webhook["token_file"]
    else:
        del receiver["http_config"]


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"alertmanager_configuration": alertmanager_configuration}
