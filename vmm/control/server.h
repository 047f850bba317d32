// Answers requests to a run over a Unix stream socket.
//
// One thread with poll(2) has all connections. Nothing that a client does keeps it from the others: it never blocks on
// one, a request is one line of bounded length, and who has not sent it and taken its answer after some seconds is
// hung up on. Guests do not notice: what answers takes locks as briefly as the report does.
#ifndef QUIRE_VMM_CONTROL_SERVER_H_
#define QUIRE_VMM_CONTROL_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/daemon.h"
#include "base/unique_fd.h"

namespace quire {

// Thread safe.
class ControlServer {
 public:
  // The most connections at a time; others wait until one of them ends.
  static constexpr size_t kMostConnections = 16;
  // How long one may take in all.
  static constexpr absl::Duration kPatience = absl::Seconds(5);

  // Turns a request's line, which may be any bytes, into the answer's, both without line breaks. Called on the
  // server's thread.
  using Answer = std::function<std::string(absl::string_view request)>;

  // Listens on a socket that it makes at `path` with mode 0600. One that nobody listens on is replaced. Errors:
  // InvalidArgument, there cannot be one at that path.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(const std::string& path, Answer answer,
                                                              absl::Duration patience = kPatience);
  // Hangs up, and removes the socket.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  const std::string& path() const { return path_; }

 private:
  struct Connection {
    UniqueFd socket;
    MonotonicTime deadline;
    std::string request = {};  // as much as has come
    std::string answer = {};   // what has not gone yet
    bool answered = false;     // the request is complete
  };

  ControlServer(std::string path, UniqueFd listener, UniqueFd wake, Answer answer, absl::Duration patience);
  void Serve();
  // Waits until there is something to do. False: the server is to stop.
  bool Wait(std::vector<bool>& ready, bool& connecting);
  void Accept();
  // False: it is over.
  bool Advance(Connection& connection);
  bool Receive(Connection& connection);
  static bool Send(Connection& connection);

  const std::string path_;
  const Answer answer_;
  const absl::Duration patience_;
  UniqueFd listener_;
  UniqueFd wake_;  // an eventfd, written when it is to stop
  // Of the thread:
  std::vector<Connection> connections_;
  MonotonicTime accept_again_;                           // not before, after descriptors had run out
  Daemon daemon_{"quire-control", [this] { Serve(); }};  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_SERVER_H_
