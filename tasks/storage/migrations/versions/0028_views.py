"""The views that the application reads: their names and columns stay when the tables change (docs/application.md)."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# Each view reads with the rights of the role that asks, so the policies of the tables bind it to the tenant.
# LEFT JOIN on a key: a query that wants no column of the joined table does not read it.
VIEWS = {
    "folder_view": """
        SELECT folder.tenant_id, folder.id, folder.email_client_id, account.user_id, account.account_name,
               account.email_address, folder.name, folder.path, folder.delimiter, folder.type, folder.is_selectable,
               folder.is_view, folder.total_count, folder.unread_count, folder.missing_count, folder.synced_at
        FROM email_folder AS folder
        LEFT JOIN email_client AS account
          ON account.tenant_id = folder.tenant_id AND account.id = folder.email_client_id
    """,
    "message_view": """
        SELECT message.tenant_id, message.id, message.email_client_id, account.user_id, message.folder_id,
               message.message_id, message.conversation_id, message.from_addresses, message.to_addresses,
               message.cc_addresses, message.bcc_addresses, message.reply_to_addresses, message.subject,
               message.text_body, message.html_body, message.headers, message.received_at, message.sent_at,
               message.is_read, message.is_starred, message.is_spam, message.is_not_spam, message.is_draft,
               message.is_sent, message.is_deleted, message.labels, message.attachment_count, message.size,
               message.spam_score, message.spam_indicators
        FROM email_message AS message
        LEFT JOIN email_client AS account
          ON account.tenant_id = message.tenant_id AND account.id = message.email_client_id
    """,
    "attachment_view": """
        SELECT attachment.tenant_id, attachment.id, attachment.email_message_id, attachment.position,
               attachment.filename, attachment.mime_type, attachment.size, attachment.content_id,
               attachment.is_inline, blob.content
        FROM email_attachment AS attachment
        LEFT JOIN blob ON blob.tenant_id = attachment.tenant_id AND blob.sha256 = attachment.storage_key
    """,
}


def upgrade() -> None:
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} WITH (security_invoker = true) AS {query}")
        op.execute(f"GRANT SELECT ON {name} TO metabuilder")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
