curl -sS -X POST $BASE/channels/send \
  -H "Authorization: Bearer $KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "channel": "email",
    "conversation_id": "'$CONVERSATION'",
    "recipient_id": "'$CONTACT'",
    "subject": "quick question about djing at {{venue}}",
    "content": "hi {{first_name}}, ...",
    "variables": { "first_name": "Alex", "venue": "The Bell House" }
  }'
