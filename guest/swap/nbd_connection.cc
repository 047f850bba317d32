#include "guest/swap/nbd_connection.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// What a server accepts that does not say (the NBD protocol, "Block sizes").
constexpr ByteCount kDefaultPayload = ByteCount::MiB(32);

// The errors that a server can answer with, as libnbd translates them: all that is not in here comes from libnbd, of
// which a request learns only when the connection ends. ESHUTDOWN, the server's good-bye, is the end of a connection
// too.
bool IsAnswer(int error) {
  switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
      return true;
    default:
      return false;
  }
}

int16_t Events(unsigned direction) {
  return static_cast<int16_t>(((direction & LIBNBD_AIO_DIRECTION_READ) ? POLLIN : 0) |
                              ((direction & LIBNBD_AIO_DIRECTION_WRITE) ? POLLOUT : 0));
}

int Milliseconds(absl::Duration time) {
  return static_cast<int>(absl::ToInt64Milliseconds(std::clamp(time, absl::ZeroDuration(), absl::Hours(1)))) + 1;
}

// Lets libnbd do what the socket is ready for: at most one step, after which the socket may be another.
int Notify(const NbdLibrary& nbd, struct nbd_handle* handle, int16_t revents) {
  const unsigned direction = nbd.aio_get_direction(handle);
  const bool failed = (revents & (POLLHUP | POLLERR)) != 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) && ((revents & POLLIN) || failed)) return nbd.aio_notify_read(handle);
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && ((revents & POLLOUT) || failed)) return nbd.aio_notify_write(handle);
  return 0;
}

}  // namespace

std::string NbdConnection::LastError() const {
  const char* error = nbd_.get_error();
  return error != nullptr && *error != '\0' ? error : "the server closed the connection";
}

absl::StatusOr<NbdExport> NbdConnection::Open(absl::Duration timeout, int stop_fd) {
  Close();
  std::unique_ptr<struct nbd_handle, decltype(nbd_.close)> handle(nbd_.create(), nbd_.close);
  if (handle == nullptr) return absl::UnavailableError(LastError());
  // A simple reply is an error or all bytes of a read. Structured ones could save the bytes of holes, of which nothing
  // that was written has any, and leave more to check.
  nbd_.set_request_structured_replies(handle.get(), false);
  // Hence nothing reads as it was before the request, and libnbd need not clear it first.
  nbd_.set_pread_initialize(handle.get(), false);
  // The URI comes from whoever runs this program: it may name its key files (tls-psk-file).
  nbd_.set_uri_allow_local_file(handle.get(), true);
  if (nbd_.aio_connect_uri(handle.get(), uri_.c_str()) == -1) {
    const std::string error = LastError();
    return nbd_.get_errno() == EINVAL ? absl::InvalidArgumentError(error) : absl::UnavailableError(error);
  }
  absl::StatusOr<NbdExport> made = Negotiate(handle.get(), timeout, stop_fd);
  if (made.ok()) {
    absl::MutexLock lock(&lock_);
    handle_ = handle.release();
  }
  return made;
}

absl::StatusOr<NbdExport> NbdConnection::Negotiate(struct nbd_handle* handle, absl::Duration timeout, int stop_fd) {
  const MonotonicTime begin = RealClock().Now();
  while (!nbd_.aio_is_ready(handle)) {
    if (nbd_.aio_is_dead(handle) || nbd_.aio_is_closed(handle)) return absl::UnavailableError(LastError());
    const absl::Duration left = timeout - (RealClock().Now() - begin);
    if (left <= absl::ZeroDuration()) {
      return absl::UnavailableError(absl::StrCat("the server did not answer within ", absl::FormatDuration(timeout)));
    }
    std::array<pollfd, 2> wait = {
        pollfd{.fd = stop_fd, .events = POLLIN, .revents = 0},
        pollfd{.fd = nbd_.aio_get_fd(handle), .events = Events(nbd_.aio_get_direction(handle)), .revents = 0}};
    if (poll(wait.data(), wait.size(), Milliseconds(left)) <= 0) continue;
    if (wait[0].revents != 0) return absl::UnavailableError("it was told to stop");
    if (Notify(nbd_, handle, wait[1].revents) == -1) return absl::UnavailableError(LastError());
  }
  return Describe(handle);
}

absl::StatusOr<NbdExport> NbdConnection::Describe(struct nbd_handle* handle) {
  const int64_t size = nbd_.get_size(handle);
  const int64_t minimum = nbd_.get_block_size(handle, LIBNBD_SIZE_MINIMUM);
  const int64_t maximum = nbd_.get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
  // libnbd passes on what the server says, of which some is no number of bytes.
  if (size < 0 || minimum < 0 || maximum < 0) {
    return absl::UnavailableError("the server told sizes that make no sense");
  }
  return NbdExport{
      .size = ByteCount::Bytes(size),
      .minimum_block = ByteCount::Bytes(minimum),
      .maximum_payload = maximum == 0 ? kDefaultPayload : std::min(ByteCount::Bytes(maximum), kDefaultPayload),
      .read_only = nbd_.is_read_only(handle) != 0,
      .can_trim = nbd_.can_trim(handle) == 1,
      .multi_conn = nbd_.can_multi_conn(handle) == 1};
}

void NbdConnection::Close() {
  absl::MutexLock lock(&lock_);
  // First, for libnbd reads and writes the bytes of requests until then.
  if (handle_ != nullptr) nbd_.close(std::exchange(handle_, nullptr));
  while (!under_way_.empty()) Finish(*under_way_.front(), NbdCompletion::kLost);
  ended_ = false;
  why_.clear();
}

bool NbdConnection::Submit(NbdRequest& request) {
  absl::MutexLock lock(&lock_);
  if (handle_ == nullptr || ended_) {
    request.completion->Done(request, NbdCompletion::kLost);
    return false;
  }
  request.connection = this;
  request.submitted = RealClock().Now();
  request.place = under_way_.insert(under_way_.end(), &request);
  // The answer, or the end of the connection, may come before this returns: the request may be gone then.
  if (Issue(request) == -1) {
    // libnbd has not taken it, and will not call back.
    End(LastError());
    Finish(request, NbdCompletion::kLost);
  }
  NoticeEnd();
  return ended_ || (nbd_.aio_get_direction(handle_) & LIBNBD_AIO_DIRECTION_WRITE) != 0;
}

int64_t NbdConnection::Issue(NbdRequest& request) {
  const nbd_completion_callback done = {
      .callback = &NbdConnection::OnCompletion, .user_data = &request, .free = nullptr};
  const uint64_t offset = request.offset.in_bytes();
  const uint64_t length = request.length.in_bytes();
  switch (request.kind) {
    case NbdRequest::Kind::kRead:
      return nbd_.aio_pread(handle_, request.bytes, length, offset, done, 0);
    case NbdRequest::Kind::kWrite:
      return nbd_.aio_pwrite(handle_, request.bytes, length, offset, done, 0);
    case NbdRequest::Kind::kTrim:
      return nbd_.aio_trim(handle_, length, offset, done, 0);
  }
  return -1;
}

// libnbd calls back from within the calls that this class makes, all of them under its lock but those of Open, when
// there are no requests.
int NbdConnection::OnCompletion(void* data, int* error) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  constexpr int kRetire = 1;  // libnbd is to forget the command
  auto& request = *static_cast<NbdRequest*>(data);
  NbdConnection& connection = *request.connection;
  if (*error == ESHUTDOWN) connection.End("the server is shutting down");
  connection.Finish(request, IsAnswer(*error) ? *error : NbdCompletion::kLost);
  return kRetire;
}

void NbdConnection::Finish(NbdRequest& request, int error) {
  under_way_.erase(request.place);
  request.completion->Done(request, error);
}

void NbdConnection::End(std::string why) {
  if (!ended_) why_ = std::move(why);
  ended_ = true;
}

void NbdConnection::NoticeEnd() {
  if (ended_) return;
  if (nbd_.aio_is_closed(handle_)) End("the server closed the connection");
  if (nbd_.aio_is_dead(handle_)) End(LastError());
}

pollfd NbdConnection::Poll() {
  absl::MutexLock lock(&lock_);
  if (handle_ == nullptr || ended_) return {.fd = -1, .events = 0, .revents = 0};
  return {.fd = nbd_.aio_get_fd(handle_), .events = Events(nbd_.aio_get_direction(handle_)), .revents = 0};
}

absl::Status NbdConnection::Drive(int16_t revents, absl::Duration timeout) {
  absl::MutexLock lock(&lock_);
  if (handle_ == nullptr) return absl::UnavailableError("the connection is closed");
  if (!ended_ && Notify(nbd_, handle_, revents) == -1) End(LastError());
  NoticeEnd();
  if (!under_way_.empty() && RealClock().Now() - under_way_.front()->submitted > timeout) {
    End(absl::StrCat("the server did not answer a request within ", absl::FormatDuration(timeout)));
  }
  return ended_ ? absl::UnavailableError(why_) : absl::OkStatus();
}

}  // namespace quire
