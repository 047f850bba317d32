// Answers HTTP requests to a run over a Unix stream socket.
//
// Each connection has a thread of its own and one request, which cpp-httplib reads and answers. Nothing that a client
// does keeps it from the others: there are at most sixteen, each may send 64 KiB and take some seconds in all, however
// it spreads them, and is hung up on then; and what answers runs when all of a request has come, and before anything is
// sent. It runs on one thread at a time. Guests do not notice: it takes locks as briefly as the report does.
#ifndef QUIRE_VMM_CONTROL_SERVER_H_
#define QUIRE_VMM_CONTROL_SERVER_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/daemon.h"
#include "base/unique_fd.h"
#include "vmm/control/http.h"

namespace quire {

// Thread safe.
class ControlServer {
 public:
  // The most connections at a time; others wait until one of them ends.
  static constexpr size_t kMostConnections = 16;
  // How long one may take in all.
  static constexpr absl::Duration kPatience = absl::Seconds(5);

  // Called by one thread at a time. The request may be any bytes, the body of at most kLongestBody.
  using Answer = std::function<HttpAnswer(const HttpRequest& request)>;

  // Listens on a socket that it makes at `path` with mode 0600. One that nobody listens on is replaced. Errors:
  // InvalidArgument, there cannot be one at that path.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(const std::string& path, Answer answer,
                                                              absl::Duration patience = kPatience);
  // Hangs up, and removes the socket. What is being answered is answered first.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  const std::string& path() const { return path_; }

 private:
  struct Connection {
    explicit Connection(UniqueFd s) : socket(std::move(s)) {}
    UniqueFd socket;
    std::thread thread = {};
    bool over = false;
  };
  class Http;

  ControlServer(std::string path, UniqueFd listener, UniqueFd wake, Answer answer, absl::Duration patience);
  void Listen();
  // Joins the threads of connections that are over. Returns how many others there are.
  size_t Reap() ABSL_LOCKS_EXCLUDED(lock_);
  // False: there was none, or no descriptor for it.
  bool Accept() ABSL_LOCKS_EXCLUDED(lock_);
  void Converse(Connection& connection) ABSL_LOCKS_EXCLUDED(lock_, answer_lock_);

  const std::string path_;
  const Answer answer_;
  const absl::Duration patience_;
  const UniqueFd listener_;
  const UniqueFd wake_;  // an eventfd, written when it is to stop, and when a connection is over
  std::atomic<bool> stopping_ = false;
  absl::Mutex answer_lock_;  // held while a request is answered; others are taken below it
  absl::Mutex lock_;         // a leaf
  std::list<Connection> connections_ ABSL_GUARDED_BY(lock_);
  std::unique_ptr<Http> http_;
  Daemon daemon_{"quire-control", [this] { Listen(); }};  // last: it uses the others
};

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_SERVER_H_
