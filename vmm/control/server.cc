#include "vmm/control/server.h"

#include <poll.h>
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
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"

namespace quire {
namespace {

// How long nobody is let in when descriptors have run out: poll would report the same one again and again.
constexpr absl::Duration kWithoutDescriptors = absl::Milliseconds(100);

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

}  // namespace

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
      wake_(std::move(wake)) {}

ControlServer::~ControlServer() {
  eventfd_write(wake_.get(), 1);
  daemon_.Stop();
  unlink(path_.c_str());
}

void ControlServer::Serve() {
  std::vector<bool> ready;
  bool connecting = false;
  while (Wait(ready, connecting)) {
    size_t number = 0;
    const MonotonicTime now = RealClock().Now();
    const auto over = [&](Connection& connection) {
      const bool at_work = ready[number++];
      return connection.deadline <= now || (at_work && !Advance(connection));
    };
    std::erase_if(connections_, over);
    if (connecting) Accept();
  }
  connections_.clear();
}

bool ControlServer::Wait(std::vector<bool>& ready, bool& connecting) {
  const MonotonicTime now = RealClock().Now();
  const bool open = connections_.size() < kMostConnections && accept_again_ <= now;
  std::vector<pollfd> polled = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                                {.fd = open ? listener_.get() : -1, .events = POLLIN, .revents = 0}};
  absl::Duration most = absl::Hours(1);
  if (accept_again_ > now) most = std::min(most, accept_again_ - now);
  for (const Connection& connection : connections_) {
    const short events = connection.answered ? POLLOUT : POLLIN;
    polled.push_back({.fd = connection.socket.get(), .events = events, .revents = 0});
    most = std::min(most, std::max(connection.deadline - now, absl::ZeroDuration()));
  }
  if (poll(polled.data(), polled.size(), Milliseconds(most)) < 0) {
    for (pollfd& entry : polled) entry.revents = 0;  // a signal: look again
  }
  ready.clear();
  for (size_t i = 2; i < polled.size(); ++i) ready.push_back(polled[i].revents != 0);
  connecting = polled[1].revents != 0;
  return polled[0].revents == 0;
}

void ControlServer::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  const MonotonicTime now = RealClock().Now();
  if (socket.valid()) {
    connections_.push_back({.socket = std::move(socket), .deadline = now + patience_});
  } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
    accept_again_ = now + kWithoutDescriptors;
  }
}

bool ControlServer::Advance(Connection& connection) {
  if (!connection.answered && !Receive(connection)) return false;
  return !connection.answered || Send(connection);
}

bool ControlServer::Receive(Connection& connection) {
  char bytes[256];
  const ssize_t count = recv(connection.socket.get(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  const absl::string_view come(bytes, static_cast<size_t>(count));
  const size_t end = come.find('\n');
  absl::StrAppend(&connection.request, come.substr(0, end));
  const bool too_long = connection.request.size() > kLongestRequest;
  if (count == 0 && connection.request.empty()) return false;
  // A last line without a break counts; and one that is too long is answered by saying so.
  if (end == absl::string_view::npos && count > 0 && !too_long) return true;
  connection.answer = absl::StrCat(answer_(connection.request), "\n");
  connection.answered = true;
  return true;
}

bool ControlServer::Send(Connection& connection) {
  const ssize_t count =
      send(connection.socket.get(), connection.answer.data(), connection.answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  connection.answer.erase(0, static_cast<size_t>(count));
  return !connection.answer.empty();
}

}  // namespace quire
