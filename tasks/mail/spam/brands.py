"""Brands whose names are misused most, and the other domains that their mail comes from."""

from typing import Final

from tasks.mail.spam.lookalikes import skeleton

# The name of each brand, and its domains besides name.com, name.de, name.co.uk and the like.
_BRANDS: Final[dict[str, tuple[str, ...]]] = {
    "adobe": ("adobesign.com", "behance.net"),
    "aliexpress": (),
    "amazon": ("amazonses.com", "amazonaws.com", "audible.com", "media-amazon.com", "primevideo.com"),
    "americanexpress": ("aexp.com",),
    "apple": ("icloud.com", "me.com", "mac.com", "itunes.com"),
    "barclays": (),
    "binance": (),
    "booking": (),
    "chase": ("jpmorgan.com", "jpmchase.com"),
    "citibank": ("citi.com",),
    "coinbase": (),
    "commerzbank": (),
    "costco": (),
    "docusign": (),
    "dhl": ("dpdhl.com", "deutschepost.de"),
    "dropbox": ("dropboxmail.com",),
    "ebay": ("ebaystatic.com",),
    "facebook": ("facebookmail.com", "fb.com", "meta.com"),
    "fedex": (),
    "github": ("githubusercontent.com",),
    "google": ("gmail.com", "googlemail.com", "youtube.com", "goo.gl", "withgoogle.com"),
    "hsbc": (),
    "instagram": ("facebookmail.com",),
    "linkedin": ("lnkd.in",),
    "metamask": (),
    "microsoft": (
        "azure.com", "live.com", "microsoftonline.com", "office.com", "office365.com", "onmicrosoft.com",
        "outlook.com", "sharepoint.com", "skype.com", "windows.com", "xbox.com",
    ),
    "netflix": ("nflxext.com",),
    "onedrive": ("microsoft.com", "live.com", "sharepoint.com"),
    "outlook": ("microsoft.com", "live.com", "office.com"),
    "paypal": ("paypal-communication.com", "paypal-brasil.com.br"),
    "postbank": (),
    "revolut": (),
    "royalmail": ("parcelforce.com",),
    "santander": (),
    "sharepoint": ("sharepointonline.com", "microsoft.com", "office.com"),
    "sparkasse": ("sparkasse-online.de",),
    "spotify": (),
    "usps": (),
    "volksbank": (),
    "wellsfargo": (),
    "whatsapp": ("facebook.com",),
    "wetransfer": (),
    "zoom": ("zoom.us",),
}  # fmt: skip

# Names that are words or surnames too: only an imitated spelling of them says anything.
PLAIN_WORDS: Final = frozenset({"amazon", "apple", "booking", "chase", "outlook", "revolut", "santander", "zoom"})

NAMES: Final = frozenset(_BRANDS)
BY_SKELETON: Final = {skeleton(name): name for name in _BRANDS}
_OWNERS: Final = {site: name for name, sites in _BRANDS.items() for site in sites}


def owner_of(site: str) -> str | None:
    """The brand that a registered domain belongs to, for domains whose names do not tell."""
    return _OWNERS.get(site)


def may_come_from(brand: str, site: str) -> bool:
    """Whether `site` is one of the further domains that mail of `brand` comes from."""
    return site in _BRANDS[brand]
