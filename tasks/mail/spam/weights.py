"""The table of all rules with their weights.

The weights of the rules that a message meets are added; each rule counts once; the sum, limited to 0 to 1, is the
score. From SPAM_SCORE_THRESHOLD (0.5 by default) on a message counts as spam, so a rule that weighs less is never
enough alone. docs/tasks.md shows this table, and a test holds the two together.
"""

from typing import Final, NamedTuple


class Rule(NamedTuple):
    """A rule: its name in indicators, its weight, and what it looks for."""

    name: str
    weight: float
    meaning: str


RULES: Final = (
    # What a trusted server found out about the sender (authentication.py)
    Rule("dmarc_pass", -0.15, "DMARC passed for the domain of From"),
    Rule("dmarc_fail", 0.40, "DMARC failed"),
    Rule("arc_pass", -0.25, "DMARC failed, but ARC vouches for a forwarder on the way"),
    Rule("spf_fail", 0.25, "without a DMARC result: SPF failed"),
    Rule("spf_softfail", 0.10, "without a DMARC result: SPF failed softly"),
    Rule("dkim_fail", 0.20, "without a DMARC result: signed, and no signature is valid"),
    # Who claims to write (sender.py)
    Rule("no_sender", 0.15, "From has no address"),
    Rule("name_shows_other_address", 0.35, "the display name shows an address of another domain"),
    Rule("name_claims_brand", 0.35, "the display name is a well-known brand's, the domain is not"),
    Rule("name_homograph", 0.35, "the display name mixes alphabets in one word"),
    Rule("lookalike_domain", 0.45, "the domain is a look-alike of a well-known brand's"),
    Rule("lookalike_of_own_domain", 0.45, "the domain is a look-alike of the account's own"),
    Rule("brand_in_domain", 0.25, "the domain is nobody's known, with a brand's name in it"),
    Rule("mixed_script_domain", 0.40, "the domain mixes alphabets in one label (IDN homograph)"),
    Rule("reply_to_freemail", 0.20, "answers go to a free mail address of another domain"),
    Rule("sent_as_recipient", 0.15, "from the account's own address"),
    # Header fields (headers.py)
    Rule("no_date", 0.10, "no readable date"),
    Rule("no_message_id", 0.10, "no Message-ID"),
    Rule("no_recipients", 0.08, "neither To nor Cc names an address"),
    Rule("subject_shouts", 0.12, "the subject is in capitals"),
    Rule("subject_exclaims", 0.15, "the subject has !!, ??? or $$"),
    Rule("subject_homograph", 0.30, "the subject mixes alphabets in one word"),
    Rule("false_reply", 0.10, "Re: or Fwd: in the subject, and nothing that it answers"),
    Rule("called_spam_before", 0.40, "X-Spam-Flag or X-Spam-Status of a filter on the way says yes"),
    Rule("answer", -0.05, "In-Reply-To: it goes on a conversation"),
    Rule("mailing_list", -0.05, "List-Id and List-Post: a discussion list"),
    # Links, in HTML and in text (links.py)
    Rule("link_shows_other_site", 0.20, "the text of a link shows a site that it does not lead to"),
    Rule("link_shows_brand", 0.30, "that site is a well-known brand's"),
    Rule("link_to_lookalike", 0.40, "a link to a look-alike of a brand's or of the account's own domain"),
    Rule("link_with_brand", 0.20, "a link to nobody's known domain with a brand's name in it"),
    Rule("link_mixed_script", 0.40, "a link to a domain that mixes alphabets in one label"),
    Rule("link_punycode", 0.10, "a link to an internationalised domain that is not the sender's"),
    Rule("link_shortener", 0.12, "a link through a shortener"),
    Rule("link_to_ip", 0.35, "a link to an IP address"),
    Rule("link_with_login", 0.35, "a link with user information before the host (brand.example@elsewhere)"),
    Rule("link_odd_domain", 0.18, "a link to a top-level domain that is mostly abused"),
    # How the HTML shows it (html_tricks.py)
    Rule("hidden_text", 0.35, "more hidden text than a preview line has"),
    Rule("split_words", 0.30, "words cut by invisible characters or by empty tags"),
    Rule("only_pictures", 0.20, "a linked picture and next to no text"),
    # Files (attachments.py)
    Rule("executable", 0.45, "a program or script"),
    Rule("double_extension", 0.45, "an executable named as if it were a document"),
    Rule("disguised_executable", 0.60, "a program by content, and not by name"),
    Rule("executable_in_archive", 0.45, "an archive with a program in it"),
    Rule("locked_archive", 0.20, "an encrypted archive"),
    Rule("macros", 0.40, "a document with macros"),
    Rule("disk_image", 0.50, "a disk image"),
    Rule("html_file", 0.25, "a web page as a file"),
    # What it says (phrases.py)
    Rule("phrases_advance_fee", 0.35, "of inheritances, lotteries and millions to be transferred"),
    Rule("phrases_phishing", 0.25, "of accounts to be verified"),
    Rule("phrases_extortion", 0.35, "of recordings and ransom"),
    Rule("phrases_pharmacy", 0.35, "of pills"),
    Rule("phrases_money", 0.22, "of quick money, loans and coins"),
    Rule("phrases_marketing", 0.25, "of rankings, leads and followers"),
    Rule("phrases_dating", 0.25, "of women near you"),
    Rule("phrases_parcel", 0.28, "of parcels held for a fee"),
    Rule("phrases_fraud", 0.25, "of gift cards and changed bank details"),
    Rule("two_phrases", 0.15, "two or more phrases of one kind"),
    Rule("many_phrases", 0.20, "four or more phrases of one kind"),
)  # fmt: skip

WEIGHTS: Final = {rule.name: rule.weight for rule in RULES}
