"""The meaning of a refused login, by the server's codes, and without a code by its words.

A refusal means a wrong user name or password only if a code or clear words say so, and if there are no words of load,
limits, outages or locks: servers send the codes of wrong passwords for all of these. Any other refusal is unclear.
The rules are made from what real servers say (tests/unit/mail/test_refusal.py).
"""

import re
from enum import Enum

from tasks.mail.parse.charset import decode


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# Codes that say nothing about the password: of IMAP (RFC 5530 section 3), POP3 (RFC 3206) and SMTP, where a reply
# begins with them (RFC 5321 section 4.2.1, RFC 3463 section 2).
_BUSY_FOR_SURE = _any(
    r"\[(?:UNAVAILABLE|IN-?USE|LIMIT|SERVERBUG|CONTACTADMIN|OVERQUOTA|LOGIN-DELAY|SYS/TEMP)\]",
    r"^4\d\d\b",
    r"^5\d\d 4\.\d{1,3}\.\d{1,3}\b",
    # Words of POP3 servers, where only one session at a time may open the maildrop (RFC 1939 section 4).
    r"(?:mail ?box|mail ?drop|spool|inbox|lock)[\w ]{0,30} (?:locked|in use|busy)",
    r"(?:locked|in use|opened) by another",
    r"(?:unable|failed|cannot|could not)(?: to)? (?:get |obtain |acquire )?(?:\w+ ){0,2}lock",
)
# Codes that say that the password is wrong, expired, or of the wrong kind: of IMAP, POP3 and SMTP as above, 5.7.8 of
# RFC 4954 section 6, and codes of Microsoft (5.7.139) and Google (534 with 5.7.14).
_WRONG_CODE = _any(
    r"\[(?:AUTH|AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED)\]",
    r"^5\d\d #?5\.7\.(?:8|139)\b",
    r"^534 5\.7\.14\b",
)
_CLIENTS = r"(?:connections|sessions|users|clients)"
# Words for too many logins, or for an account that is locked for a while: trying again too soon makes things worse.
_LIMIT_WORDS = _any(
    rf"too many (?!(?:\w+ ){{0,2}}{_CLIENTS})",
    r"\blimit(?:s|ed)?\b",
    r"throttl|exceed|too (?:often|frequent|fast)|frequen|flood|suspicious|abuse|temporary block",
    r"\block(?:ed|out)\b(?! by your)|blocked|blacklist|banned|frozen|suspended",
    r"(?:login|account|user)(?: is| has been)? disabled|频|锁定|冻结",
)
# Words for a server that is in trouble, or has all the clients that it takes.
_BUSY_WORDS = _any(
    rf"too many|maximum (?:number of )?(?:\w+ )?{_CLIENTS}",
    r"again (?:later|in)\b",
    r"temporar(?:y|ily)\b(?! password)",
    r"(?<!reason )unavailable|not available|not (?:responding|ready)|no (?:response|answer) from",
    r"(?:system|server|internal|service|database)[\w ]{0,20} (?:error|failure|problem)",
    r"\bbusy\b|overload|maintenance|backend|out of memory",
    r"tim(?:ed|e)[ -]?out|connection (?:lost|refused|closed|reset|failed)",
    r"(?:cannot|can't|could not|unable to) (?:connect|contact|open)",
    r"繁忙|稍后|稍候",
)
_WRONG = r"(?:wrong|bad|invalid|incorrect|mismatch|unknown|unauthori[sz]ed)"
_REFUSED = r"(?:fail(?:ed|ure|s)?|unsuccessful|rejected|denied|refused|incorrect|not successful)"
_CREDENTIAL = r"(?:password|passwd|credentials?|user ?name|user ?id|user|log ?in|logon|account|authentication)"
_CLEAR_WORDS = _any(
    rf"{_WRONG}[\w,:/' -]{{0,30}}\b{_CREDENTIAL}",
    rf"{_CREDENTIAL}[\w,:/'() -]{{0,40}}\b{_WRONG}",
    rf"{_CREDENTIAL}[\w,:/'() -]{{0,40}}(?:not (?:accepted|valid|correct|match)|error|rejected|refused|expired)",
    r"no such (?:user|mailbox|account)|user (?:[\w@.-]+ )?(?:not found|does not exist)",
    rf"(?:authenticat(?:ion|e)|auth|log[io]n|logon|sign[ -]?in)(?: attempt| command)?(?: has)? {_REFUSED}",
    r"(?:failed|unable|not able|could not) (?:to )?(?:log ?(?:in|on)|authenticate)\b",
    r"application[- ]specific password|(?:app|app?lication) password|authori[sz]ation code",
    r"web login required|log in (?:via|with) your web",
    # How servers refuse a token (RFC 7628 section 3.2.2, and XOAUTH2).
    r'"status" ?: ?"(?:40[0-3]|invalid_\w+)"',
    r"密码错误|授权码",
)
# Words that refuse the mechanism, whatever the code: Dovecot sends the code of a wrong password with them.
_MECHANISM_WORDS = _any(r"\bmechanism\b", r"\bauth(?:entication)? (?:type|method)\b")
# Answers to a command that was not understood, which tell nothing about the password.
_NOT_UNDERSTOOD = _any(r"command error: BAD\b", r"\[CLIENTBUG\]", r"^50[0-4]\b")


class Meaning(Enum):
    """What a refusal of a login means."""

    WRONG_BY_CODE = "a code says that user name or password are wrong"
    WRONG_BY_WORDS = "clear words say so"
    BUSY = "the server, or what it depends on, cannot now"
    LIMITED = "there were too many logins, or the account is locked"
    UNCLEAR = "it may mean anything, also that the mechanism is to blame"


def meaning_of(words: str) -> Meaning:
    """The meaning of a refused login. The `words` of an SMTP reply must begin with its code."""
    if _BUSY_FOR_SURE.search(words):
        return Meaning.BUSY
    if _LIMIT_WORDS.search(words):
        return Meaning.LIMITED
    if _BUSY_WORDS.search(words):
        return Meaning.BUSY
    if _MECHANISM_WORDS.search(words):
        return Meaning.UNCLEAR
    if _WRONG_CODE.search(words):
        return Meaning.WRONG_BY_CODE
    if _CLEAR_WORDS.search(words) and not _NOT_UNDERSTOOD.search(words):
        return Meaning.WRONG_BY_WORDS
    return Meaning.UNCLEAR


def readable(said: bytes) -> str:
    """A server's words as text: UTF-8, or Chinese as QQ and 163 send it, else Western European.

    Chinese in GB 18030 is recognised by its pairs of bytes: there
    is always an even number of bytes beyond ASCII in a row.
    """
    is_chinese = all(len(run) % 2 == 0 for run in re.findall(rb"[\x80-\xff]+", said))
    return decode(said, "gb18030" if is_chinese else "windows-1252")


def means_busy(words: str) -> bool:
    """Whether a refusal of anything asks to come back later."""
    return meaning_of(words) in (Meaning.BUSY, Meaning.LIMITED)
