// What a run of the program ends with. Scripts depend on these numbers.
#ifndef QUIRE_VMM_EXIT_STATUS_H_
#define QUIRE_VMM_EXIT_STATUS_H_

#include "absl/status/status.h"

namespace quire {

enum class ExitStatus : int {
  kAllWell = 0,
  kGuestFailed = 1,  // a guest died, read a wrong byte, or ended with a status that is not 0
  kBadInput = 2,     // the command line, or a file it names, is wrong
  kHostLacks = 3,    // the host lacks something, or does not permit it
  kOutOfMemory = 4,
};

// The convention for errors that reach the command line:
//   InvalidArgument, OutOfRange                                      bad input
//   FailedPrecondition, NotFound, PermissionDenied, Unimplemented,
//   Unavailable                                                      the host lacks something
//   ResourceExhausted                                                out of memory
//   anything else                                                    a guest failed
// A file that the user named and that is not there is therefore InvalidArgument, a device that is not there NotFound.
ExitStatus ToExitStatus(const absl::Status& status);

}  // namespace quire

#endif  // QUIRE_VMM_EXIT_STATUS_H_
