curl -sS -X POST $BASE/messages/$MESSAGE/approve \
  -H "Authorization: Bearer $KEY"
