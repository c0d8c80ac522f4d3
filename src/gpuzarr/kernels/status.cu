// Whether every stream of a batch came out right.
#include "common.cuh"

__global__ void __launch_bounds__(THREADS) check_status(const StatusArgs args) {
  EACH_THREAD(i, args.count) {
    const bool wrong =
        at<const int32_t>(args.statuses)[i] != 0 || at<const uint64_t>(args.actual)[i] != at<const uint64_t>(args.expected)[i];
    if (args.failures) at<uint8_t>(args.failures)[i] = wrong;
    if (wrong) report_failure(args.summary, i);
  }
}
