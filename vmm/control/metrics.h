// A run's report for Prometheus, as text of OpenMetrics 1.0 (docs/api.md has the table of names).
#ifndef QUIRE_VMM_CONTROL_METRICS_H_
#define QUIRE_VMM_CONTROL_METRICS_H_

#include <string>

#include "vmm/report.h"

namespace quire {

inline constexpr char kMetricsType[] = "application/openmetrics-text; version=1.0.0; charset=utf-8";

std::string MetricsText(const Report& report);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_METRICS_H_
