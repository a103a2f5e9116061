// A client and a server of Go's crypto/tls: `main client PORT CA PREFIX COUNT` makes COUNT requests with
// `X-Request-Id: PREFIX-N` to https://example.test at PORT of this machine, by HTTP/2 where the server has it, and
// writes a JSON line for each; `main server PORT PEM` answers them.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

const name = "example.test"

func main() {
	if os.Args[1] == "server" {
		serve(os.Args[2], os.Args[3])
		return
	}
	count, err := strconv.Atoi(os.Args[5])
	must(err)
	ask(os.Args[2], os.Args[3], os.Args[4], count)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(port, pem string) {
	http.HandleFunc("/mirror", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
	must(http.ListenAndServeTLS("127.0.0.1:"+port, pem, pem, nil))
}

func ask(port, authority, prefix string, count int) {
	pem, err := os.ReadFile(authority)
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	local := 0
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		if err == nil {
			local = conn.LocalAddr().(*net.TCPAddr).Port
		}
		return conn, err
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	pattern := make([]byte, 256)
	for index := range pattern {
		pattern[index] = byte(index)
	}
	for number := 0; number < count; number++ {
		method, path, sent := "GET", fmt.Sprintf("/bytes/%d", number*37), []byte{}
		if number%3 == 2 {
			method, path, sent = "POST", "/mirror", bytes.Repeat(pattern, number*37)
		}
		request, err := http.NewRequest(method, "https://"+name+path, bytes.NewReader(sent))
		must(err)
		request.Header.Set("X-Request-Id", fmt.Sprintf("%s-%d", prefix, number))
		response, err := client.Do(request)
		must(err)
		body, err := io.ReadAll(response.Body)
		must(err)
		response.Body.Close()
		fmt.Printf("{\"id\":\"%s-%d\",\"path\":%q,\"status\":%d,\"size\":%d,\"sha256\":\"%x\",\"port\":%d}\n",
			prefix, number, path, response.StatusCode, len(body), sha256.Sum256(body), local)
	}
}
