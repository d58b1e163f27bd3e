# Asks the Ruby example of docs/webhooks.md about each case.
require "json"
require_relative "verify"

given = JSON.parse($stdin.read)
verdicts = given["cases"].map do |test|
  headers = test["headers"]
  body = [test["body"]].pack("H*")
  from_iris?(given["secret"], headers["x-iris-timestamp"], headers["x-iris-signature"], body)
end
puts JSON.generate(verdicts)
