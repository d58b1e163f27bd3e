curl -sS -X POST $BASE/discovery/search \
  -H "Authorization: Bearer $KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "keywords": ["bar", "lounge"],
    "location": "Brooklyn, NY",
    "radius_miles": 10,
    "max_results": 50,
    "campaign_id": "'$CAMPAIGN'",
    "enrich_emails": true
  }'
