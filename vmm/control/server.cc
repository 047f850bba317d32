#include "vmm/control/server.h"

#include <fcntl.h>
#include <httplib.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/thread.h"
#include "nlohmann/json.hpp"
#include "vmm/control/socket_place.h"

namespace quire {
namespace {

// How long nobody is let in when descriptors have run out: poll would report the same one again and again.
constexpr absl::Duration kWithoutDescriptors = absl::Milliseconds(100);

// What a connection may send, its headers included.
constexpr size_t kMostRead = 64 << 10;
static_assert(kMostRead > kLongestBody);

// What is read and dropped of a client that goes on sending, so that it gets to read its answer.
constexpr size_t kMostDropped = 1 << 20;

absl::Status CannotListen(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("no control socket can be made at ", path, " (", why,
                                                 "): name another path with --control=PATH, or --control=none"));
}

// Makes way for a socket, if what is there is one that nobody listens on.
absl::Status MakeWay(const std::string& path) {
  struct stat found;
  if (lstat(path.c_str(), &found) != 0) return absl::OkStatus();
  if (!S_ISSOCK(found.st_mode)) return CannotListen(path, "there is something else");
  if (ConnectTo(path).ok()) return CannotListen(path, "another run listens there");
  unlink(path.c_str());
  return absl::OkStatus();
}

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1))));
}

// One client's bytes, until its time is over or it has sent too many.
class ClientStream final : public httplib::Stream {
 public:
  ClientStream(int socket, MonotonicTime deadline) : socket_(socket), deadline_(deadline) {}

  // cpp-httplib reads lines byte by byte.
  ssize_t read(char* to, size_t size) override {
    if (next_ == end_ && !Fill()) return -1;
    const size_t count = std::min(size, end_ - next_);
    std::memcpy(to, buffer_ + next_, count);
    next_ += count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* from, size_t size) override {
    for (size_t sent = 0; sent < size;) {
      if (!Await(POLLOUT)) return -1;
      const ssize_t count = send(socket_, from + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0 && errno != EAGAIN && errno != EINTR) return -1;
      if (count > 0) sent += static_cast<size_t>(count);
    }
    return static_cast<ssize_t>(size);
  }
  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

  // Ends the answer. A socket that is closed with bytes in it that nobody has read tells the other side of an error,
  // which may not look for an answer then.
  void Finish() {
    shutdown(socket_, SHUT_WR);
    for (size_t dropped = 0; dropped < kMostDropped; dropped += end_) {
      read_ = 0;
      if (!Fill()) return;
    }
  }

 private:
  bool Await(short events) const {
    pollfd polled = {.fd = socket_, .events = events, .revents = 0};
    for (;;) {
      const absl::Duration left = deadline_ - RealClock().Now();
      if (left <= absl::ZeroDuration()) return false;
      if (const int ready = poll(&polled, 1, Milliseconds(left)); ready != 0) return ready > 0 || errno == EINTR;
    }
  }
  bool Fill() {
    for (;;) {
      if (read_ == kMostRead || !Await(POLLIN)) return false;
      const ssize_t count = recv(socket_, buffer_, std::min(sizeof buffer_, kMostRead - read_), MSG_DONTWAIT);
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (count <= 0) return false;
      next_ = 0;
      end_ = static_cast<size_t>(count);
      read_ += end_;
      return true;
    }
  }

  const int socket_;
  const MonotonicTime deadline_;
  char buffer_[4096];
  size_t next_ = 0, end_ = 0;  // of what is in the buffer
  size_t read_ = 0;            // in all
};

std::string Sentence(int status) {
  switch (status) {
    case 413:
      return absl::StrCat("the body is too large: send at most ", kLongestBody, " bytes");
    case 414:
      return "the path and the query are too long: write fewer than 1000 bytes";
    case 415:
      return "the body is encoded: send it as it is";
    default:
      return "this is no HTTP request that can be read: its method, a header or its length is wrong";
  }
}

std::string ErrorBody(absl::string_view sentence) {
  const nlohmann::json json{{"error", sentence}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

// cpp-httplib without its sockets and threads.
class ControlServer::Http : public httplib::Server {
 public:
  explicit Http(std::function<HttpAnswer(const HttpRequest&)> answer) : answer_(std::move(answer)) {
    set_payload_max_length(kLongestBody);
    const auto handler = [this](const httplib::Request& request, httplib::Response& response) {
      Handle(request, response);
    };
    Get("/", handler).Post("/", handler).Put("/", handler).Patch("/", handler).Delete("/", handler);
    Options("/", handler);
    set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) response.set_content(ErrorBody(Sentence(response.status)), kJsonType);
    });
    set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
      response.status = 500;
      response.set_content(ErrorBody("the request could not be answered: report this with what was asked"), kJsonType);
    });
  }

  void Serve(httplib::Stream& stream) {
    bool closed = false;
    process_request(stream, /*close_connection=*/true, closed, [](httplib::Request& request) {
      // Its own routes are regular expressions, with which nobody's bytes are matched; the target has the path still. A
      // form would be taken apart instead of being left in the body, and part of an answer is no JSON.
      request.path = "/";
      request.headers.erase("Content-Type");
      request.ranges.clear();
      // It would be read until the client hangs up.
      if (!request.has_header("Content-Length") && !request.has_header("Transfer-Encoding")) {
        request.set_header("Content-Length", "0");
      }
    });
  }

 private:
  void Handle(const httplib::Request& request, httplib::Response& response) {
    if (request.body.size() > kLongestBody) {
      response.status = 413;
      return;
    }
    HttpAnswer answer = answer_({.method = request.method, .target = request.target, .body = request.body});
    response.status = answer.status;
    if (!answer.allow.empty()) response.set_header("Allow", answer.allow);
    response.set_header("Cache-Control", "no-store");
    response.set_content(std::move(answer.body), answer.content_type.c_str());
  }

  const std::function<HttpAnswer(const HttpRequest&)> answer_;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(const std::string& path, Answer answer,
                                                                    absl::Duration patience) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return address.status();
  if (absl::Status status = MakeWay(path); !status.ok()) return status;
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  // The mode of a socket that is bound later: there is no moment in which others may connect.
  if (!wake.valid() || fchmod(listener.get(), 0600) != 0 ||
      bind(listener.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
      listen(listener.get(), static_cast<int>(kMostConnections)) != 0) {
    return CannotListen(path, std::strerror(errno));
  }
  auto server =
      absl::WrapUnique(new ControlServer(path, std::move(listener), std::move(wake), std::move(answer), patience));
  server->daemon_.Start();
  server->daemon_.Wake();
  return server;
}

ControlServer::ControlServer(std::string path, UniqueFd listener, UniqueFd wake, Answer answer, absl::Duration patience)
    : path_(std::move(path)),
      answer_(std::move(answer)),
      patience_(patience),
      listener_(std::move(listener)),
      wake_(std::move(wake)) {
  // It has the whole process ignore SIGPIPE, without being asked.
  struct sigaction before;
  sigaction(SIGPIPE, nullptr, &before);
  http_ = std::make_unique<Http>([this](const HttpRequest& request) {
    absl::MutexLock lock(&answer_lock_);
    return answer_(request);
  });
  sigaction(SIGPIPE, &before, nullptr);
}

ControlServer::~ControlServer() {
  stopping_.store(true, std::memory_order_release);
  eventfd_write(wake_.get(), 1);
  daemon_.Stop();
  unlink(path_.c_str());
  {
    absl::MutexLock lock(&lock_);
    for (const Connection& connection : connections_) shutdown(connection.socket.get(), SHUT_RDWR);
    const auto all_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
      return std::all_of(connections_.begin(), connections_.end(), [](const Connection& c) { return c.over; });
    };
    lock_.Await(absl::Condition(&all_over));
  }
  Reap();
}

void ControlServer::Listen() {
  while (!stopping_.load(std::memory_order_acquire)) {
    const bool open = Reap() < kMostConnections;
    pollfd polled[] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                       {.fd = open ? listener_.get() : -1, .events = POLLIN, .revents = 0}};
    if (poll(polled, 2, -1) <= 0) continue;  // a signal: look again
    eventfd_t ignored;
    if (polled[0].revents != 0) eventfd_read(wake_.get(), &ignored);
    if (polled[1].revents != 0 && !Accept()) daemon_.Rest(kWithoutDescriptors);
  }
}

size_t ControlServer::Reap() {
  std::list<Connection> over;
  size_t left;
  {
    absl::MutexLock lock(&lock_);
    for (auto c = connections_.begin(); c != connections_.end();) {
      const auto next = std::next(c);
      if (c->over) over.splice(over.end(), connections_, c);
      c = next;
    }
    left = connections_.size();
  }
  for (Connection& connection : over) connection.thread.join();
  return left;
}

bool ControlServer::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
  absl::MutexLock lock(&lock_);
  Connection& connection = connections_.emplace_back(std::move(socket));
  connection.thread = std::thread([this, &connection] { Converse(connection); });
  return true;
}

void ControlServer::Converse(Connection& connection) {
  SetThreadName("quire-client");
  ClientStream stream(connection.socket.get(), RealClock().Now() + patience_);
  http_->Serve(stream);
  stream.Finish();
  absl::MutexLock lock(&lock_);
  connection.over = true;
  eventfd_write(wake_.get(), 1);
}

}  // namespace quire
