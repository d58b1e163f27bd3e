curl -sS $BASE/channels/availability \
  -H "Authorization: Bearer $KEY"
