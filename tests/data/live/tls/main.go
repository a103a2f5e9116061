// A client and a server of Go's crypto/tls: `main client PORT CA PREFIX COUNT` makes COUNT requests with
// `X-Request-Id: PREFIX-N` to https://example.test at PORT of this machine, by HTTP/2 where the server has it, and
// writes a JSON line for each; `main steady PORT CA PREFIX COUNT` asks again and again until SIGTERM, on COUNT connections
// of TLS 1.2 and 1.3, two and two with HTTP/1.1 and HTTP/2, each with `?id=PREFIX-N`; `main server PORT PEM` answers.
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
	"os/signal"
	"path"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const name = "example.test"

func main() {
	if os.Args[1] == "server" {
		serve(os.Args[2], os.Args[3])
		return
	}
	count, err := strconv.Atoi(os.Args[5])
	must(err)
	if os.Args[1] == "steady" {
		steady(os.Args[2], os.Args[3], os.Args[4], count)
		return
	}
	client := dialing(os.Args[2], os.Args[3], &tls.Config{}, true)
	for number := 0; number < count; number++ {
		client.ask(fmt.Sprintf("%s-%d", os.Args[4], number), number, "")
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(port, pem string) {
	http.HandleFunc("/bytes/", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(path.Base(r.URL.Path))
		w.Write(bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size])
	})
	http.HandleFunc("/mirror", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
	must(http.ListenAndServeTLS("127.0.0.1:"+port, pem, pem, nil))
}

// A client with a connection of its own, at least as long as each request is answered before the next.
type client struct {
	http  *http.Client
	local int
}

func dialing(port, authority string, config *tls.Config, http2 bool) *client {
	pem, err := os.ReadFile(authority)
	must(err)
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AppendCertsFromPEM(pem)
	made := &client{}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		if err == nil {
			made.local = conn.LocalAddr().(*net.TCPAddr).Port
		}
		return conn, err
	}
	made.http = &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: config, ForceAttemptHTTP2: http2}}
	return made
}

// One request, by its number: every third sends its body and gets it back.
func (client *client) ask(id string, number int, query string) {
	method, target, sent := "GET", fmt.Sprintf("/bytes/%d", number%40*37), []byte{}
	if number%3 == 2 {
		pattern := make([]byte, 256)
		for index := range pattern {
			pattern[index] = byte(index)
		}
		times := number % 40
		// A few of many: long, so that a call takes more than an event holds.
		if query == "" || number%30 == 2 {
			times *= 37
		}
		method, target, sent = "POST", "/mirror", bytes.Repeat(pattern, times)
	}
	target += query
	request, err := http.NewRequest(method, "https://"+name+target, bytes.NewReader(sent))
	must(err)
	request.Header.Set("X-Request-Id", id)
	began := time.Now().UnixMicro()
	response, err := client.http.Do(request)
	must(err)
	body, err := io.ReadAll(response.Body)
	must(err)
	response.Body.Close()
	fmt.Printf("{\"id\":%q,\"path\":%q,\"status\":%d,\"size\":%d,\"sha256\":\"%x\",\"port\":%d,\"began\":%d.%03d}\n",
		id, target, response.StatusCode, len(body), sha256.Sum256(body), client.local, began/1000, began%1000)
}

func steady(port, authority, prefix string, count int) {
	over, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var all sync.WaitGroup
	for first := 0; first < count; first++ {
		version := uint16(tls.VersionTLS12 + first%2)
		client := dialing(port, authority, &tls.Config{MinVersion: version, MaxVersion: version}, first%4 > 1)
		all.Add(1)
		go func(number int) {
			defer all.Done()
			for over.Err() == nil {
				id := fmt.Sprintf("%s-%d", prefix, number)
				client.ask(id, number, "?id="+id)
				number += count
				time.Sleep(20 * time.Millisecond)
			}
			client.http.CloseIdleConnections()
		}(first)
	}
	all.Wait()
}
