/*
 * Linux's side of `bench -- tcp`: a server and a client on the kernel's own TCP, one thread and epoll each.
 *
 *     tcp-linux server                          ports: SINK reads, ECHO answers, CLOSE .. CLOSE + 15 close when the client does
 *     tcp-linux bulk ADDRESS STREAMS SECONDS    prints bytes a second
 *     tcp-linux echo ADDRESS SECONDS            prints the median and the 99th percentile of round trips, in us
 *     tcp-linux connect ADDRESS SECONDS         prints connections opened and closed a second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SINK = 5001, ECHO = 5002, CLOSE = 6000, CLOSE_PORTS = 16, IN_FLIGHT = 1024, CHUNK = 1 << 18, MESSAGE = 64 };
enum { MAX_FDS = 1 << 16, MAX_SAMPLES = 1 << 22 };

static char buffer[CHUNK];
static int port_of[MAX_FDS];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(int result, const char *what) {
  if (result >= 0) return;
  perror(what);
  exit(1);
}

static void watch(int epoll, int fd, unsigned events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void no_delay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int listener(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  check(bind(fd, (struct sockaddr *)&a, sizeof a), "bind");
  check(listen(fd, 4096), "listen");
  return fd;
}

static void serve(void) {
  int epoll = epoll_create1(0);
  struct epoll_event events[512];
  int ports[2 + CLOSE_PORTS] = {SINK, ECHO};
  int listeners[MAX_FDS / 1024] = {0};
  for (int i = 0; i < CLOSE_PORTS; i++) ports[2 + i] = CLOSE + i;
  for (int i = 0; i < 2 + CLOSE_PORTS; i++) {
    listeners[i] = listener(ports[i]);
    port_of[listeners[i]] = -ports[i];
    watch(epoll, listeners[i], EPOLLIN);
  }
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    int n = epoll_wait(epoll, events, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (port_of[fd] < 0) {
        int client;
        while ((client = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          port_of[client] = -port_of[fd];
          no_delay(client);
          watch(epoll, client, EPOLLIN);
        }
        continue;
      }
      ssize_t got = read(fd, buffer, CHUNK);
      if (got > 0 && port_of[fd] == ECHO) {
        if (write(fd, buffer, got) != got) close(fd);
      } else if (got == 0 || (got < 0 && errno != EAGAIN)) close(fd);
    }
  }
}

static int dial(const char *address, int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  check(fd, "socket");
  inet_pton(AF_INET, address, &a.sin_addr);
  no_delay(fd);
  if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS) {
    perror("connect");
    exit(1);
  }
  return fd;
}

static void bulk(const char *address, int streams, double seconds) {
  int epoll = epoll_create1(0);
  struct epoll_event events[512];
  for (int i = 0; i < streams; i++) watch(epoll, dial(address, SINK), EPOLLOUT);
  double begin = 0, end = now() + seconds + 0.5, sent = 0;
  for (double t = now(); t < end; t = now()) {
    /* The first half second opens windows. */
    if (begin == 0 && t > end - seconds) begin = t, sent = 0;
    int n = epoll_wait(epoll, events, 512, 100);
    for (int i = 0; i < n; i++) {
      ssize_t put = write(events[i].data.fd, buffer, CHUNK);
      if (put > 0) sent += put;
      else if (errno != EAGAIN) perror("write"), exit(1);
    }
  }
  printf("%.0f\n", sent / (now() - begin));
}

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void echo(const char *address, double seconds) {
  static float samples[MAX_SAMPLES];
  int fd = dial(address, ECHO), count = 0;
  fcntl(fd, F_SETFL, 0);
  for (double end = now() + seconds; now() < end && count < MAX_SAMPLES;) {
    double t = now();
    ssize_t left = MESSAGE;
    if (write(fd, buffer, MESSAGE) != MESSAGE) perror("write"), exit(1);
    while (left > 0) {
      ssize_t got = read(fd, buffer, left);
      if (got <= 0) perror("read"), exit(1);
      left -= got;
    }
    samples[count++] = (now() - t) * 1e6;
  }
  qsort(samples, count, sizeof *samples, by_size);
  printf("%.1f %.1f\n", samples[count / 2], samples[(int)(count * 0.99)]);
}

static void connects(const char *address, double seconds) {
  int epoll = epoll_create1(0), next = 0, done = 0;
  struct epoll_event events[512];
  double begin = now(), end = begin + seconds;
  for (int i = 0; i < IN_FLIGHT; i++) watch(epoll, dial(address, CLOSE + next++ % CLOSE_PORTS), EPOLLOUT);
  while (now() < end) {
    int n = epoll_wait(epoll, events, 512, 100);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (events[i].events & EPOLLOUT) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        shutdown(fd, SHUT_WR);
        epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
        continue;
      }
      if (read(fd, buffer, CHUNK) < 0 && errno == EAGAIN) continue;
      close(fd);
      done++;
      watch(epoll, dial(address, CLOSE + next++ % CLOSE_PORTS), EPOLLOUT);
    }
  }
  printf("%.0f\n", done / (now() - begin));
}

int main(int argc, char **argv) {
  struct rlimit files = {MAX_FDS, MAX_FDS};
  setrlimit(RLIMIT_NOFILE, &files);
  if (argc == 2 && !strcmp(argv[1], "server")) serve();
  if (argc == 5 && !strcmp(argv[1], "bulk")) bulk(argv[2], atoi(argv[3]), atof(argv[4]));
  else if (argc == 4 && !strcmp(argv[1], "echo")) echo(argv[2], atof(argv[3]));
  else if (argc == 4 && !strcmp(argv[1], "connect")) connects(argv[2], atof(argv[3]));
  else return 2;
  return 0;
}
