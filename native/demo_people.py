"""Who writes to the demo mailbox, and what about, in the languages and charsets that they use."""

from typing import NamedTuple


class Tongue(NamedTuple):
    """A language as mail is written in it: the charset and transfer encoding of its senders' programs."""

    charset: str
    transfer_encoding: str
    people: tuple[tuple[str, str], ...]
    subjects: tuple[str, ...]
    sentences: tuple[str, ...]


ME = ("Dana Weber", "demo@example.org")

ENGLISH = Tongue(
    "utf-8",
    "7bit",
    (
        ("Alice Moreau", "alice.moreau@example.com"),
        ("Tom O'Brien", "tom@obrien.example"),
        ("Priya Natarajan", "priya.n@example.net"),
        ("Miguel Santos", "miguel.santos@example.com"),
    ),
    (
        "Release plan for Aurora", "Minutes of Tuesday's meeting", "Server room access", "Quarterly figures",
        "Lunch on Friday?", "Review of the migration script", "Travel to Hamburg", "Contract draft, second version",
        "New printer on the third floor", "Question about the invoice", "Photos from the workshop",
    ),
    (
        "Thanks for the quick answer.", "I have put the latest version on the shared drive.",
        "Could you have a look before Thursday?", "The numbers look better than last month.",
        "Let us talk about it on the phone tomorrow morning.", "The customer asked for two small changes.",
        "I am out of office next week, Priya stands in for me.", "Please find the document attached.",
        "The tests pass on my machine, but not on the build server.", "We should decide by the end of the month.",
        "No objections from my side.", "I will send the final list as soon as I have it.",
    ),
)  # fmt: skip
GERMAN = Tongue(
    "windows-1252",
    "quoted-printable",
    (("Jürgen Köhler", "j.koehler@example.de"), ("Sabine Großmann", "grossmann@example.de")),
    ("Angebot für die neue Halle", "Rückfrage zur Rechnung 4711", "Termin nächste Woche", "Übergabe der Schlüssel"),
    (
        "vielen Dank für Ihre schnelle Antwort.", "Könnten wir den Termin auf Mittwoch verschieben?",
        "Anbei finden Sie das überarbeitete Angebot.", "Der Preis versteht sich zuzüglich Mehrwertsteuer – 1.250 €.",
        "Für Rückfragen stehe ich Ihnen gern zur Verfügung.", "Die Maße müssen noch geprüft werden.",
    ),
)  # fmt: skip
FRENCH = Tongue(
    "iso-8859-1",
    "quoted-printable",
    (("Hélène Lefèvre", "helene.lefevre@example.fr"),),
    ("Réunion du comité", "Relevé de compte", "Déjeuner à Lyon"),
    (
        "Merci pour votre réponse.", "La réunion est déplacée à jeudi après-midi.",
        "Pourriez-vous me confirmer la réception ?", "Le dossier a été envoyé à l'été dernier.",
    ),
)  # fmt: skip
RUSSIAN = Tongue(
    "koi8-r",
    "8bit",
    (("Ольга Смирнова", "olga@example.ru"), ("Иван Петров", "petrov@example.ru")),
    ("Отчёт за квартал", "Встреча в четверг", "Новый договор"),
    (
        "Спасибо за быстрый ответ.", "Высылаю отчёт за прошлый месяц.", "Давайте созвонимся завтра утром.",
        "Пожалуйста, проверьте приложенный документ.",
    ),
)  # fmt: skip
JAPANESE = Tongue(
    "iso-2022-jp",
    "7bit",
    (("山田太郎", "yamada@example.jp"), ("佐藤花子", "sato@example.jp")),
    ("会議のお知らせ", "見積書の件", "資料を送ります"),
    (
        "お世話になっております。", "資料を添付いたしますのでご確認ください。",
        "来週の会議は水曜日に変更になりました。",
        "よろしくお願いいたします。",
    ),
)  # fmt: skip
CHINESE = Tongue(
    "gb18030",
    "base64",
    (("王小明", "wang@example.cn"),),
    ("项目进度", "下周的会议"),
    ("附件是最新的版本。", "请在星期五之前回复。", "谢谢您的帮助。"),
)
GREEK = Tongue(
    "utf-8",
    "8bit",
    (("Γιώργος Παπαδόπουλος", "giorgos@example.gr"),),
    ("Πρόσκληση σε συνάντηση", "Φωτογραφίες 📅"),
    ("Ευχαριστώ πολύ για τη βοήθεια.", "Τα λέμε την Παρασκευή! 🎉", "Δείτε το συνημμένο έγγραφο."),
)
ARABIC = Tongue(
    "utf-8",
    "base64",
    (("نور الهدى", "nour@example.eg"),),
    ("موعد الاجتماع", "الفاتورة الجديدة"),
    ("شكرا جزيلا على ردك السريع.", "أرجو مراجعة المستند المرفق.", "نلتقي يوم الخميس."),
)

# Most of the mail is English, as in most mailboxes of an international company.
TONGUES = (ENGLISH, ENGLISH, ENGLISH, ENGLISH, GERMAN, GERMAN, FRENCH, RUSSIAN, JAPANESE, CHINESE, GREEK, ARABIC)

NEWSLETTERS = (
    ("The Weekly Commit", "news@weekly-commit.example", "Ten things about indexes"),
    ("Bahnhof & Co.", "angebote@bahnhof.example", "Nur heute: 20 % auf alle Fahrkarten"),
    ("Kitchen Garden Club", "hello@garden-club.example", "What to sow in March"),
)
SPAM = (
    ("Prize Department", "winner@lucky.example", "YOU HAVE WON!!! Claim your $1,000,000"),
    ("Dr. Kofi", "barrister@inheritance.example", "Confidential business proposal"),
    ("Pills 4 U", "shop@pills.example", "Cheap meds, no prescr1ption"),
)
