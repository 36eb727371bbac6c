// A plain net/http server: plain PORT
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	slot := os.Getenv("NODE_APP_INSTANCE")
	if slot == "" {
		slot = "0"
	}
	body := fmt.Sprintf(`{"pid":%d,"slot":%s}`, os.Getpid(), slot)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
