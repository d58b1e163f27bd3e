curl -sS "$BASE/messages/pending?campaign_id=$CAMPAIGN" \
  -H "Authorization: Bearer $KEY"
