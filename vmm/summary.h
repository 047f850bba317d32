// The end of a run, for people.
#ifndef QUIRE_VMM_SUMMARY_H_
#define QUIRE_VMM_SUMMARY_H_

#include <string>

#include "vmm/report.h"
#include "vmm/terminal.h"

namespace quire {

// One line a guest, the pool as a bar with its legend, the faults, what became of guests that did not end well, and
// what it all means in one sentence.
std::string Summary(const Report& report, const Terminal& terminal);

}  // namespace quire

#endif  // QUIRE_VMM_SUMMARY_H_
