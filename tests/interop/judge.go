// Asks the Go example of docs/webhooks.md about each case.
package main

import (
	"encoding/hex"
	"encoding/json"
	"log"
	"os"
)

func main() {
	var given struct {
		Secret string
		Cases  []struct {
			Headers map[string]string
			Body    string
		}
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		log.Fatal(err)
	}
	verdicts := []bool{}
	for _, c := range given.Cases {
		body, err := hex.DecodeString(c.Body)
		if err != nil {
			log.Fatal(err)
		}
		verdict := isFromIris(given.Secret, c.Headers["x-iris-timestamp"], c.Headers["x-iris-signature"], body)
		verdicts = append(verdicts, verdict)
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		log.Fatal(err)
	}
}
