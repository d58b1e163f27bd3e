curl -sS -X POST $BASE/campaigns \
  -H "Authorization: Bearer $KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "April DJ outreach - Brooklyn",
    "objective_type": "venue_dj",
    "location": "Brooklyn, NY",
    "radius_miles": 10,
    "venue_types": ["bar", "club", "lounge"],
    "keywords": ["live music", "dj nights"],
    "max_results": 50,
    "outreach_channels": ["email", "instagram", "twitter"],
    "followup_days": [3, 7, 14],
    "status": "draft"
  }'
